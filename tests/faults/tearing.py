"""Files that are not what was written: cut, and with one bit changed."""

from pathlib import Path


def cut(folder: Path, pattern: str) -> None:
    """Cut the first file that matches in half."""
    path = next(folder.rglob(pattern))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(folder: Path, pattern: str) -> None:
    """Change one bit in the middle of the first file that matches."""
    path = next(folder.rglob(pattern))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
