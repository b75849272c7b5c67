"""Images are untrusted: what is taken in, what is refused and how it is said, one row at a time."""

import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cpl_ray.cells import RowError
from cpl_ray.config import DataConfig
from cpl_ray.items import Item
from cpl_ray.pictures import open_picture, picture_of
from cpl_ray.reading import read_items
from tests.oracle.toy_vision import png

LIMIT = 10_000


def bomb(side: int) -> bytes:
    """Return a PNG of a few hundred bytes that claims side x side pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("as_bytes", [True, False])
def test_an_image_is_named_by_its_bytes(tmp_path: Path, as_bytes: bool) -> None:
    content = png("red")
    (tmp_path / "a.png").write_bytes(content)
    cell: Any = {"bytes": content, "path": None} if as_bytes else "a.png"
    picture = picture_of(cell, None if as_bytes else tmp_path, LIMIT)
    assert picture.sha256 == picture_of(content, None, LIMIT).sha256
    assert open_picture(picture).getpixel((1, 1)) == (255, 0, 0)
    item = Item("i", "question", question="q", target="a", image=picture)
    assert Item.from_json(item.to_json()) == item


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("none.png", "is no file"),
        ("../secret.png", "outside of the folder"),
        ("link.png", "outside of the folder"),
        ("/etc/hostname", "relative to its data file"),
        ("file:///etc/hostname", "relative to its data file"),
        ("pipe", "is no file"),
        (".", "is no file"),
        ("x" * 5000, "too long"),
        (b"no image", "no readable image"),
        (png("red")[:60], "no readable image"),
        (bomb(9_000), "9000 x 9000 pixels, data.max_image_pixels=10000"),
        (bomb(60_000), "decompression bomb"),
        (png("red", (101, 100)), "101 x 100 pixels"),
        (7, "of type int"),
        ({"bytes": None, "path": None}, "missing"),
    ],
)
def test_refusals(tmp_path: Path, cell: Any, reason: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(png("blue"))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    os.mkfifo(folder / "pipe")
    with pytest.raises(RowError, match=reason):
        picture_of(cell, folder, LIMIT)


def test_an_image_that_has_changed_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png("red"))
    picture = picture_of("a.png", tmp_path, LIMIT)
    (tmp_path / "a.png").write_bytes(png("blue"))
    with pytest.raises(RowError, match="has changed"):
        open_picture(picture)


def test_rows_with_bad_images_are_set_aside_and_the_same_words_about_two_images_are_two_questions(
    tmp_path: Path,
) -> None:
    for colour in ("red", "blue"):
        (tmp_path / f"{colour}.png").write_bytes(png(colour))
    (tmp_path / "bomb.png").write_bytes(bomb(60_000))
    names = ("red.png", "blue.png", "red.png", "bomb.png", "../red.png")
    rows = [{"question": "Which colour?", "answer": "it", "image": name} for name in names]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = read_items(str(tmp_path / "q.jsonl"), DataConfig(), name="data.items")
    assert len(result.items) == 2
    assert len({item.question_key() for item in result.items}) == 2
    assert [(row.row, row.kind) for row in result.rejected] == [(3, "duplicate"), (4, "malformed"), (5, "malformed")]


def test_bytes_in_parquet(tmp_path: Path) -> None:
    cells = [{"bytes": png("red"), "path": "x.png"}, {"bytes": b"zzz", "path": "y.png"}]
    table = pa.table({"question": ["a?", "b?"], "answer": ["a", "b"], "image": cells})
    pq.write_table(table, tmp_path / "q.parquet")
    result = read_items(str(tmp_path / "q.parquet"), DataConfig(), name="data.items")
    assert [item.question for item in result.items] == ["a?"]
    assert "'y.png' is no readable image" in result.rejected[0].reason


def test_a_data_set_with_images_is_read_undecoded(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"question": datasets.Value("string"), "answer": datasets.Value("string"), "image": datasets.Image()}
    )
    columns = {"question": ["a?"], "answer": ["a"], "image": [{"bytes": png("red"), "path": None}]}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(tmp_path / "set"))
    item = read_items(str(tmp_path / "set"), DataConfig(), name="data.items").items[0]
    assert item.image is not None
    assert open_picture(item.image).size == (20, 24)
