"""Which model and which items are meant: digests of their contents, whatever folders, files and orders are."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from cpl_ray.items import Item


def model_digest(folder: Path) -> str:
    """Return a sha256 over names and contents of a model folder, but for its card, which may be rewritten."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "README.md"):
        with open(path, "rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        whole.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return whole.hexdigest()


def items_digest(items: Iterable[Item]) -> str:
    """Return a sha256 over the items, whatever their order; equal digests are the same questions and answers."""
    whole, separator = hashlib.sha256(), ""
    for line in sorted(item.to_json() for item in items):  # one by one: joined they would be in memory thrice
        whole.update(f"{separator}{line}".encode("utf-8", "surrogatepass"))
        separator = "\n"
    return whole.hexdigest()
