"""A folder for the temporary files of commands, and what they leave there."""

from pathlib import Path

TEMPORARY = "temporary"
"""Name of such a folder."""
RAYS_OWN = "/tmp"
"""Ray's session folders stay with their logs, always; sockets lie in them, so their path must be short."""


def variables(folder: Path) -> dict[str, str]:
    """Return the variables under which a command puts its temporary files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return {"TMPDIR": str(folder), "RAY_TMPDIR": RAYS_OWN}


def kinds_left(folder: Path) -> dict[str, list[str]]:
    """Return the names of what was left, by their first letters: the rest is random."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.iterdir()):
        found.setdefault(path.name[:3], []).append(path.name)
    return found
