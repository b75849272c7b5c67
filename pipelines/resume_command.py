"""The command that continues a run which was not brought to its end."""

import shlex
from pathlib import Path
from typing import Any

RESUMABLE = ("interrupted", "failed", "trained", "assessed")


def with_resume(found: dict[str, Any]) -> dict[str, Any]:
    """Return the details of a run or sweep with `resume`: the command, or None where there is nothing to continue.

    The saved configuration is used, as `run.resume` accepts no other; paths in it are relative to the folder that the
    run was started in.
    """
    verb = f"study {found['study']}" if found["kind"] == "study" else found["kind"]
    return found | {"resume": _command(verb, Path(found["folder"])) if _resumable(found) else None}


def _resumable(found: dict[str, Any]) -> bool:
    return found["state"] in RESUMABLE and (Path(found["folder"]) / "config.yaml").is_file()


def _command(verb: str, folder: Path) -> str:
    from cpl_ray.loading import load_config

    place = load_config(folder / "config.yaml").run
    words = ["cpl", *verb.split(), str(folder / "config.yaml"), "run.resume=true"]
    if place.name != folder.name:  # renamed or moved
        words.append(f"run.name={folder.name}")
    if Path(place.dir).expanduser().absolute() != folder.parent:
        words.append(f"run.dir={folder.parent}")
    return shlex.join(words)
