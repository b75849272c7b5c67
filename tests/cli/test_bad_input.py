"""Input that cannot be used, as `cpl assess` and `cpl train` meet it before they start Ray.

Each ends with the right exit code and a message that names the value; no traceback, nothing that a later stage or a
resumed run would take for whole.
"""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast, Qwen2Config

from cpl_ray import lock
from pipelines.__main__ import main

ITEMS = [
    {"id": f"q{n}", "question": f"Is {n} an even number?", "choices": ["yes", "no"], "answer": n % 2} for n in range(6)
]
CONFIG = "model: model\ndata: {items: items.jsonl}\nrun: {name: r}\ntracking: {enabled: false}\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Enter a folder with a configuration, items, and a model that has all but its weights."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(BPE({letter: index for index, letter in enumerate([*letters, "<eos>"])}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>").save_pretrained(tmp_path / "model")
    Qwen2Config(vocab_size=257, max_position_embeddings=256).save_pretrained(tmp_path / "model")
    (tmp_path / "c.yaml").write_text(CONFIG)
    write(tmp_path / "items.jsonl", *ITEMS)
    monkeypatch.chdir(tmp_path)
    handlers = list(logging.getLogger().handlers)
    yield tmp_path
    logging.getLogger().handlers[:] = handlers
    for folder in list(lock._held):
        lock.release(folder)


@pytest.fixture
def cpl(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Return a function that runs `cpl` here and returns exit code and standard error."""

    def no_ray(*arguments: object, **settings: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("ray.init", no_ray)

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["cpl", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        assert "hunter2" not in out
        return ended.value.code, err  # type: ignore[return-value]

    return call


def write(path: Path, *rows: object) -> None:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def half_of_a_parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ITEMS), path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


BROKEN: list[tuple[str, Callable[[Path], Any], int, tuple[str, ...]]] = [
    ("a.jsonl", lambda path: path.write_text(""), 1, ("data.items", "a.jsonl", "no rows")),
    ("a.jsonl", lambda path: path.write_text("\n \n"), 1, ("data.items", "no rows")),
    ("a.csv", lambda path: path.write_text("question,choices,answer\n"), 1, ("data.items", "no rows")),
    ("a.jsonl", lambda path: write(path, {"a": 1}, [2], b"{"), 1, ("3 of 3 rows", "no row is usable", "a.jsonl row 1")),
    ("a.jsonl", lambda path: write(path, *ITEMS, b"\xff\xfe{"), 1, ("1 of 7 rows", "row 7", "UTF-8", "max_rejected")),
    ("a.jsonl", lambda path: path.write_bytes('{"a": 1}'.encode("utf-16")), 1, ("a.jsonl", "UTF-16")),
    ("a.parquet", half_of_a_parquet, 1, ("a.parquet", "not a readable Parquet file")),
    ("a.parquet", lambda path: path.write_bytes(b""), 1, ("a.parquet",)),
    ("a.jsonl", lambda path: path.mkdir(), 3, ("data.items", "a.jsonl", "holds no file")),
    ("a.docx", lambda path: path.write_text("x"), 3, ("data.items", "a.docx", ".jsonl")),
    ("a.jsonl", os.mkfifo, 1, ("a.jsonl", "a pipe, socket or device", "name a file")),
    ("a.csv", os.mkfifo, 1, ("a.csv", "a pipe, socket or device")),
    ("a.jsonl", lambda path: path.symlink_to("/dev/zero"), 1, ("a.jsonl", "a pipe, socket or device")),
    ("a.jsonl", lambda path: None, 3, ("data.items", "'a.jsonl' does not exist")),
]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("name", "make", "code", "words"), BROKEN)
def test_items(
    place: Path, cpl: Any, name: str, make: Callable[[Path], Any], code: int, words: tuple[str, ...]
) -> None:
    make(place / name)
    found, said = cpl("assess", "c.yaml", f"data.items={name}")
    assert found == code, said
    assert [word for word in words if word not in said] == []
    assert not (place / "runs" / "r" / "assessment").exists()


@pytest.mark.parametrize(
    ("overrides", "code", "words"),
    [
        (("model=./nowhere",), 3, ("no folder './nowhere'",)),
        (("model=c.yaml",), 3, ("'c.yaml' is a file",)),
        (("model=bare",), 3, ("bare'", "tokenizer")),
        (("prompt.chat=true",), 3, ("prompt.chat", "chat template")),
        (("data.max_length=100000",), 3, ("data.max_length", "100000", "256")),
        (("data.max_length=3",), 1, ("6 of 6 rows", "3 tokens", "no row is usable")),
        (("run.dir=c.yaml/runs",), 3, ("run.dir", "c.yaml/runs")),
        (("data.items={a: 1}",), 3, ("data.items",)),
        (("data.columns={ask: b}",), 3, ("data.columns", "'ask'", "question")),
        (("data.items=null",), 1, ("data.items", "data.mastered")),
        (("data.items=null", "data.mastered=items.jsonl"), 3, ("data.injection is missing",)),
        (("data.mastered=items.jsonl", "data.injection=items.jsonl"), 3, ("either data.items", "not both")),
        (("data.assessment=nowhere",), 3, ("nowhere", "cpl assess")),
        (("train.epochs=!!bool x",), 3, ("override 'train.epochs=!!bool x'", "line 1", "true or false")),
        (("model=" + "[" * 3000,), 3, ("override 'model=[", "nested too deeply")),
        (("cluster.num_workers=100000000000000000000000",), 3, ("cluster.num_workers", "at most 100,000")),
        (("train.epochs=100000000000000000000",), 3, ("train.epochs", "at most 1,000,000,000")),
        (("train.seed=-1",), 3, ("train.seed", "-1", "at least 0 and below 4,294,967,296")),
        (("search.seeds=[1, -1]",), 3, ("search.seeds", "[1, -1]", "whole numbers of at least 0")),
        (("assess.scorer=exact",), 3, ("assess.scorer", "'exact'", "exact_match")),
    ],
)
def test_settings(place: Path, cpl: Any, overrides: tuple[str, ...], code: int, words: tuple[str, ...]) -> None:
    (place / "bare").mkdir()
    (place / "bare" / "config.json").write_bytes((place / "model" / "config.json").read_bytes())
    found, said = cpl("assess", "c.yaml", *overrides)
    assert found == code, said
    assert [word for word in words if word not in said] == []


@pytest.mark.parametrize(
    ("overrides", "code", "words"),
    [
        (("propose.prompts=nowhere.txt",), 3, ("propose.prompts", "nowhere.txt")),
        (("propose.prompts=c.yaml",), 3, ("propose.prompts", "c.yaml", ".txt, .jsonl")),
        (("propose.prompts=empty.txt",), 1, ("propose.prompts", "no row", "empty.txt")),
        (("propose.template=Q",), 3, ("propose.template", "{question}", "'Q'")),
        (("propose.held_out=1",), 3, ("propose.held_out",)),
        (("assess.scorer=choice_loglik",), 3, ("choice_loglik", "exact_match")),
        (("run.resume=true",), 3, ("run.resume", "run.overwrite")),
    ],
)
def test_proposing(place: Path, cpl: Any, overrides: tuple[str, ...], code: int, words: tuple[str, ...]) -> None:
    (place / "empty.txt").write_text("\n")
    found, said = cpl("propose", "c.yaml", *overrides)
    assert found == code, said
    assert [word for word in words if word not in said] == []
    assert not (place / "runs").exists()
    if overrides != ("run.resume=true",):
        assert cpl("validate", "c.yaml", *overrides)[0] == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", ("c.yaml", "model")),
        (b"- model\n", ("c.yaml", "mapping")),
        (b"model: [\n", ("c.yaml", "YAML")),
        (b"model: \xff\n", ("c.yaml", "UTF-8")),
        (b"model: m\nmodel: n\n", ("'model'", "twice")),
        (b"model: m\ntrain: {epochs: 1.5}\n", ("train.epochs", "1.5", "an integer")),
        (b"model: m\ntrain: 3\n", ("train", "3")),
    ],
)
def test_configuration_files(place: Path, cpl: Any, text: bytes, words: tuple[str, ...]) -> None:
    (place / "c.yaml").write_bytes(text)
    found, said = cpl("assess", "c.yaml")
    assert found == 3, said
    assert [word for word in words if word not in said] == []
    assert not (place / "runs").exists()


@pytest.mark.timeout(120)
def test_a_configuration_that_is_no_file(place: Path, cpl: Any) -> None:
    os.mkfifo(place / "pipe.yaml")
    (place / "zero.yaml").symlink_to("/dev/zero")
    for name in ("pipe.yaml", "zero.yaml"):
        code, said = cpl("validate", name)
        assert code == 3
        assert f"{name} is a pipe, socket or device" in said


@pytest.mark.parametrize(
    "override",
    [
        "tracking.uri=https://h/?access_token=hunter2",
        "tracking.uri=postgresql://user:pa/hunter2@h/db",
        "tracking.uri=https://h/?X-Amz-Signature=hunter2",
        "tracking.url=https://u:hunter2@h",
        "data.items=https://u:hunter2@h/x.jsonl",
        "model=https://u:hunter2@h/x",
        'deepspeed={private_key: hunter2, auth: "Bearer hunter2"}',
        "train.epochs=https://u:hunter2@h",
    ],
)
@pytest.mark.parametrize("verb", ["validate", "train", "plan"])
def test_no_secret_is_shown(place: Path, cpl: Any, verb: str, override: str) -> None:
    code, said = cpl(verb, "c.yaml", override)
    assert code == 3
    assert "hunter2" not in said
    code, said = cpl(verb, "c.yaml", override, "--json")
    assert code == 3
    assert "hunter2" not in said
    assert not (place / "runs").exists()


@pytest.mark.parametrize("option", ["--items", "--tokens-per-item"])
def test_a_plan_for_too_much(cpl: Any, option: str) -> None:
    code, said = cpl("plan", "c.yaml", option, "99999999999999999999")
    assert code == 3
    assert "10000000" in said


def test_brought_sets(place: Path, cpl: Any) -> None:
    write(place / "empty.jsonl")
    write(place / "other.jsonl", {**ITEMS[0], "question": "Is it?"})
    brought = ("data.items=null", "data.injection=other.jsonl")
    code, said = cpl("train", "c.yaml", *brought, "data.mastered=empty.jsonl")
    assert code == 1
    assert "data.mastered" in said
    assert "empty.jsonl" in said
    code, said = cpl("train", "c.yaml", *brought, "data.mastered=other.jsonl", "evaluate.every=null")
    assert code == 1
    assert "more than one part" in said
    assert "is it" in said
    assert not (place / "runs" / "r" / "model").exists()


def test_a_stage_without_the_one_before(place: Path, cpl: Any) -> None:
    code, said = cpl("train", "c.yaml")
    assert code == 3
    assert "cpl assess" in said
    code, said = cpl("evaluate", "c.yaml")
    assert code == 1
    assert "cpl train" in said


def test_rows_set_aside_are_reported_and_a_failed_run_may_be_begun_again(place: Path, cpl: Any) -> None:
    write(place / "items.jsonl", ITEMS[0], {"id": "bad", "question": "What?", "choices": ["one"], "answer": 0})
    code, _ = cpl("assess", "c.yaml")
    assert code == 1
    (row,) = map(json.loads, (place / "runs" / "r" / "rejected.jsonl").read_text().splitlines())
    assert (row["file"], row["row"]) == ("items.jsonl", 2)
    assert "choices" in row["reason"]
    code, said = cpl("assess", "c.yaml", "data.items=missing.jsonl", "run.overwrite=true")
    assert code == 3
    assert "missing.jsonl" in said


def test_a_name_in_use(place: Path, cpl: Any) -> None:
    (place / "runs" / "r" / "model").mkdir(parents=True)
    (place / "runs" / "r" / "config.yaml").write_text(CONFIG)
    for verb in ("train", "run"):
        code, said = cpl(verb, "c.yaml")
        assert code == 3
        assert "run.name: 'r'" in said
        assert "run.resume=true" in said
