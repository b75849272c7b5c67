"""Which model is meant: a digest of a model folder, whatever the folder is called."""

import hashlib
from pathlib import Path


def model_digest(folder: Path) -> str:
    """Return a sha256 over names and contents of a model folder, but for its card, which may be rewritten."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "README.md"):
        with open(path, "rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        whole.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return whole.hexdigest()
