"""Every row of a file is an item or a rejection with file, row and reason; whole files fail with a message."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cpl_ray.config import DataConfig
from cpl_ray.errors import ConfigError, DataError, UserError
from cpl_ray.items import Item
from cpl_ray.reading import ReadResult, check_budget, read_items, separate_ids, write_rejected

ROWS: list[dict[str, Any]] = [
    {"id": "fr", "question": "Capital of France?", "choices": ["Rome", "Paris"], "answer": 1},
    {"id": "it", "question": "Capital of Italy?", "choices": ["Rome", "Paris"], "answer": 0},
    {"id": "no", "question": "Capital of Norway, or Norge?", "choices": ["Bergen", "Oslo"], "answer": 1},
]


def read(source: Path | str | list[str], **settings: Any) -> ReadResult:
    place = [str(part) for part in source] if isinstance(source, list) else str(source)
    return read_items(place, DataConfig(**settings), name="data.items")


def as_jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    lines = ["id,question,choices,answer"]
    for row in rows:
        cells = [row["id"], row["question"], json.dumps(row["choices"]), str(row["answer"])]
        lines.append(",".join('"' + cell.replace('"', '""') + '"' for cell in cells))
    return "\r\n".join(lines).encode()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue())


WRITERS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "a.jsonl": as_jsonl,
    "a.json": lambda rows: json.dumps(rows, indent=1).encode(),
    "wrapped.json": lambda rows: json.dumps({"data": rows}).encode(),
    "lines.json": as_jsonl,
    "a.csv": as_csv,
    "a.parquet": as_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_items(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(WRITERS[name](ROWS))
    result = read(tmp_path / name)
    assert result.rejected == []
    assert result.num_rows == 3
    assert [item.id for item in result.items] == ["fr", "it", "no"]
    assert result.items[2] == Item(
        "no", "multiple_choice", "Capital of Norway, or Norge?", ("Bergen", "Oslo"), 1, "Oslo"
    )


def test_dirty_jsonl_loses_only_its_bad_rows(tmp_path: Path) -> None:
    good = [json.dumps(row).encode() for row in ROWS]
    lines = [
        b"\xef\xbb\xbf" + good[0] + b"\r\n",
        b"\r\n",
        b'{"id": "caf\xe9"}\n',
        good[1] + b"\n",
        b"[1, 2]\n",
        b"{'id': 1}\n",
        b"[" * 100_000 + b"\n",
        b'{"id": "half", "prompt": "\\ud800", "completion": "x"}\n',
        good[2][:40],
    ]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(lines))
    result = read(path)
    assert [item.id for item in result.items] == ["fr", "it"]
    assert result.num_rows == 8
    assert [(row.file, row.row) for row in result.rejected] == [(str(path), n) for n in (3, 5, 6, 7, 8, 9)]
    reasons = [row.reason for row in result.rejected]
    assert "not valid UTF-8 (byte 12" in reasons[0]
    assert "type list, not an object" in reasons[1]
    assert "not valid JSON" in reasons[2]
    assert "not valid" in reasons[3] or "type list" in reasons[3]
    assert "not valid Unicode" in reasons[4]
    assert "the file may be cut off" in reasons[5]
    assert all(len(row.raw) <= 301 for row in result.rejected)
    write_rejected(tmp_path / "rejected.jsonl", result.rejected)
    written = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text("utf-8").splitlines()]
    assert [row["row"] for row in written] == [3, 5, 6, 7, 8, 9]
    assert set(written[0]) == {"file", "row", "reason", "raw", "kind"}


def test_csv_quotes_and_broken_records(tmp_path: Path) -> None:
    lines = [
        b"\xef\xbb\xbfprompt,completion",
        b'"two\r\nlines, ""quoted""", Paris',
        b"",
        b"only one cell",
        b"a,b,c",
        b"caf\xe9,x",
        b'"bad"quote,x',
        b",,",
        b"good,row",
        b'"never closed,x',
        b"last,one",
    ]
    path = tmp_path / "a.csv"
    path.write_bytes(b"\r\n".join(lines))
    result = read(path)
    assert [(item.prompt, item.target) for item in result.items] == [
        ('two\r\nlines, "quoted"', " Paris"),
        ("good", "row"),
        ("last", "one"),
    ]
    assert [row.row for row in result.rejected] == [2, 3, 4, 5, 7]
    assert "1 cells, the header has 2" in result.rejected[0].reason
    assert "3 cells, the header has 2" in result.rejected[1].reason
    assert "not valid UTF-8 (column 'prompt')" in result.rejected[2].reason
    assert "not valid CSV" in result.rejected[3].reason
    assert "never closed" in result.rejected[4].reason
    assert result.num_rows == 8


def test_parquet_of_numpy_and_nulls(tmp_path: Path) -> None:
    table = pa.table(
        {
            "question": ["Q1", None, "Q3"],
            "choices": [["a", "b"], ["a", "b"], ["a", None]],
            "answer": pa.array([1.0, 0.0, None]),
            "picture": [b"\xff\xfe", b"", b""],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    result = read(tmp_path / "a.parquet")
    assert [(item.id, item.target) for item in result.items] == [("items-a-1", "b")]
    assert [row.row for row in result.rejected] == [2, 3]
    assert "its columns are" in result.rejected[0].reason
    assert "'picture'" in result.rejected[0].reason


def test_parquet_text_that_is_not_utf8_loses_its_row(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"caf\xe9"], pa.binary()).buffers())
    pq.write_table(pa.table({"prompt": bad, "completion": ["x", "y"]}), tmp_path / "a.parquet")
    result = read(tmp_path / "a.parquet")
    assert [item.prompt for item in result.items] == ["ok"]
    assert [(row.row, "cannot be decoded" in row.reason) for row in result.rejected] == [(2, True)]


@pytest.mark.parametrize("name", ["a.parquet", "a.json"])
def test_a_file_cut_off_anywhere_gives_a_message(tmp_path: Path, name: str) -> None:
    whole = WRITERS[name](ROWS)
    for length in range(0, len(whole) - 1, max(1, len(whole) // 40)):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"a\.(parquet|json)"):
            read(tmp_path / name)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_bytes_end_in_a_traceback(tmp_path: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["a.jsonl", "a.json", "a.csv"]))
    body = bytearray(WRITERS[name](ROWS))
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(body)))
        body[place : place + data.draw(st.integers(0, 9))] = data.draw(
            st.binary(max_size=6) | st.sampled_from([b'"', b"\n", b"\x00", b"{", b"\r"])
        )
    (tmp_path / name).write_bytes(bytes(body))
    try:
        result = read(tmp_path / name)
    except UserError:
        return
    assert len(result.items) + len(result.rejected) == result.num_rows
    write_rejected(tmp_path / "rejected.jsonl", result.rejected)
    assert len((tmp_path / "rejected.jsonl").read_bytes().splitlines()) == len(result.rejected)


def test_duplicates_are_kept_once_and_do_not_count_as_malformed(tmp_path: Path) -> None:
    rows = [
        ROWS[0],
        {**ROWS[0], "id": "again", "question": " capital of FRANCE"},
        {**ROWS[0], "id": "other-answer", "answer": 0},
        {**ROWS[1], "id": "fr"},
    ]
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(rows))
    result = read(tmp_path / "a.jsonl")
    assert [item.id for item in result.items] == ["fr", "other-answer"]
    assert [(row.row, row.kind) for row in result.rejected] == [(2, "duplicate"), (4, "malformed")]
    assert result.rejected[0].reason == "duplicate of fr"
    assert "the id 'fr' is taken by" in result.rejected[1].reason
    assert result.num_malformed == 1


def test_budget_names_counts_reasons_and_place(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(ROWS) + b"nonsense\n" * 4)
    result = read(tmp_path / "a.jsonl")
    place = tmp_path / "rejected.jsonl"
    with pytest.raises(DataError, match=r"data\.items: 4 of 7 rows are malformed.*allows 0") as caught:
        check_budget(result, DataConfig(max_rejected=0.1), "data.items", place)
    assert str(caught.value).count("not valid JSON") == 3
    assert str(place) in str(caught.value)
    check_budget(result, DataConfig(max_rejected=4 / 7), "data.items", place)
    (tmp_path / "b.jsonl").write_bytes(b"nonsense\n")
    with pytest.raises(DataError, match="no row is usable"):
        check_budget(read(tmp_path / "b.jsonl"), DataConfig(max_rejected=1.0), "data.items", place)


def test_folders_globs_and_lists(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name, row in zip(["b.jsonl", "a.parquet", "sub/b.jsonl"], ROWS, strict=True):
        row = {key: value for key, value in row.items() if key != "id"}
        (tmp_path / name).write_bytes(WRITERS["a.parquet" if name.endswith("parquet") else "a.jsonl"]([row]))
    for ignored in ("manifest.json", "README.md", ".hidden.jsonl"):
        (tmp_path / ignored).write_text("{}")
    answers = ["Rome", "Paris", "Oslo"]
    result = read(tmp_path)
    assert [item.target for item in result.items] == answers
    assert len({item.id for item in result.items}) == 3
    assert [item.target for item in read(f"{tmp_path}/**/*.jsonl").items] == ["Paris", "Oslo"]
    assert [item.target for item in read([f"{tmp_path}/sub", f"{tmp_path}/a.*"]).items] == ["Oslo", "Rome"]


def test_a_saved_dataset_and_its_splits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    train = datasets.Dataset.from_list(ROWS[:2])
    train.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": train, "test": datasets.Dataset.from_list(ROWS[2:])}).save_to_disk(
        str(tmp_path / "both")
    )
    assert [item.id for item in read(tmp_path / "one").items] == ["fr", "it"]
    assert [item.id for item in read(tmp_path / "both", dataset_split="test").items] == ["no"]
    with pytest.raises(ConfigError, match="dataset_split may be train, test"):
        read(tmp_path / "both", dataset_split="dev")


def test_missing_and_unreadable_sources(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "utf16.csv").write_bytes("prompt,completion\na,b".encode("utf-16"))
    (tmp_path / "twice.csv").write_text("prompt,prompt\na,b")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "header.csv").write_text("prompt,completion\n")
    config_errors: dict[Path | str, str] = {
        tmp_path / "no.jsonl": "does not exist",
        "data/no such/name": "does not exist",
        tmp_path / "*.parquet": "matches nothing",
        tmp_path / "*.txt": "only files of other formats",
        tmp_path / "a.txt": "valid suffixes are .jsonl",
        tmp_path / "empty": "holds no file",
        "s3://bucket/a.jsonl": "is a URL",
    }
    for source, message in config_errors.items():
        with pytest.raises(ConfigError, match=message):
            read(source)
    data_errors = {
        "utf16.csv": "UTF-16",
        "twice.csv": "twice: 'prompt'",
        "empty.jsonl": "no rows",
        "header.csv": "no rows",
    }
    for name, message in data_errors.items():
        with pytest.raises(DataError, match=message):
            read(tmp_path / name)
    with pytest.raises(ConfigError, match=r"data\.columns: 'qestion'"):
        read(tmp_path / "empty.jsonl", columns={"qestion": "stem"})


def test_ids_are_separated_only_where_sets_share_them() -> None:
    sets = {"mastered": [Item("1", "cloze"), Item("a", "cloze")], "injection": [Item("1", "cloze")]}
    separated = separate_ids(sets)
    assert [item.id for item in separated["mastered"]] == ["mastered/1", "a"]
    assert [item.id for item in separated["injection"]] == ["injection/1"]


def test_brought_sets_keep_their_duplicates(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "a b", "completion": "c"}\n' * 3, encoding="utf-8")
    assert len(read_items(str(path), DataConfig(), name="data.items").items) == 1
    kept = read_items(str(path), DataConfig(), name="data.injection", keep_duplicates=True)
    assert len({item.id for item in kept.items}) == 3
    assert kept.rejected == []
