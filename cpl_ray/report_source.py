"""What a report reads of a run or sweep folder, with the secrets of settings and addresses taken out."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from cpl_ray.errors import ConfigError, DataError
from cpl_ray.studies.findings import PAGE, VERDICT
from cpl_ray.tracking_uri import redacted
from cpl_ray.trials import COMPARE_FILE, SWEEP_FILE
from cpl_ray.whole_numbers import whole_number

NOT_AS_WRITTEN = (TypeError, AttributeError, ValueError, LookupError, ArithmeticError, AssertionError)
"""What fails where a file holds other kinds of values than the stages write."""
RUN_FILE = "config.yaml"
_SHOWN = 5


def find_folder(name: str, runs: Path) -> Path:
    """Return the run or sweep folder that is meant, by its path or by its name in `runs`.

    Raises:
        ConfigError: there is none; lists the newest in `runs`.
    """
    candidates = [Path(name).expanduser(), runs.expanduser() / name] if name else []
    for folder in candidates:
        if is_sweep(folder) or (folder / RUN_FILE).is_file():
            return folder.absolute()
    for folder in candidates:
        if folder.is_dir():
            raise ConfigError(
                f"{folder} is neither a run nor a sweep (it holds no {RUN_FILE} and no {SWEEP_FILE}); "
                f"name a run folder or a run in {runs}{_newest(runs)}"
            )
    raise ConfigError(f"there is no run or sweep {name!r}, neither as a folder nor by name in {runs}{_newest(runs)}")


def is_sweep(folder: Path) -> bool:
    """Tell whether the folder is one of a sweep."""
    return (folder / SWEEP_FILE).is_file()


def is_comparison(folder: Path) -> bool:
    """Tell whether the folder is one of a comparison."""
    return (folder / COMPARE_FILE).is_file()


def is_study(folder: Path) -> bool:
    """Tell whether the folder is one of a study."""
    return (folder / PAGE).is_file()


def verdict_of(folder: Path, out: Path | None) -> Path:
    """Return the verdict of a study, which is its report.

    Raises:
        ConfigError: it has not finished, or a file for a report was named.
    """
    path = folder / VERDICT
    if "verdict" not in (read_object(folder / PAGE) or {}) or not path.is_file():
        raise ConfigError(
            f"{folder} is a study that has not finished, so there is no verdict to report; "
            f"`cpl runs show {folder}` tells its state and how to continue it"
        )
    if out is not None:
        raise ConfigError(f"--out: {folder} is a study, whose report is {path}; leave --out away")
    return path


def _newest(runs: Path) -> str:
    if not runs.is_dir():
        return f"; {runs} does not exist, `--runs DIR` says where runs lie"
    found = {path.parent for pattern in (RUN_FILE, SWEEP_FILE) for path in runs.glob(f"*/{pattern}")}
    if not found:
        return f"; {runs} holds none"
    newest = sorted(found, key=lambda folder: folder.stat().st_mtime, reverse=True)
    return "; newest there: " + ", ".join(folder.name for folder in newest[:_SHOWN])


def read_object(path: Path) -> dict[str, Any] | None:
    """Return the object of a JSON file without secrets, None where there is no file.

    Raises:
        DataError: it cannot be read or is no object.
    """
    try:
        content: Any = json.loads(path.read_bytes(), parse_int=whole_number)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}); the stage that writes it has to be run again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no JSON object; the stage that writes it has to be run again")
    return redacted(content)


@contextmanager
def as_written(path: Path) -> Iterator[None]:
    """Turn what fails on values of other kinds than the stages write into an error that names their file.

    Raises:
        DataError: something in `path` is not what it should be.
    """
    try:
        yield
    except NOT_AS_WRITTEN as error:
        what = error if isinstance(error, ValueError) and str(error) else repr(error)
        raise DataError(
            f"{path} holds what no stage writes ({what}); the stage that writes it has to be run again"
        ) from error


def read_config(path: Path) -> dict[str, Any]:
    """Return a resolved configuration without secrets; empty where there is none.

    It is not validated: a report is also made of runs of other versions.

    Raises:
        DataError: it is not YAML.
    """
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path} is damaged ({str(error).splitlines()[0]})") from error
    return redacted(content) if isinstance(content, dict) else {}


def as_yaml(settings: Mapping[str, Any]) -> str:
    """Return settings as people write them."""
    return yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True, width=100)


def at(content: Any, *keys: str) -> Any:
    """Return what lies at the end of `keys` in nested objects, None where a step is missing."""
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def rate_at(content: Any, *keys: str) -> dict[str, Any] | None:
    """Return the rate at `keys` (count, of, share, low, high); None where it was not measured or is of no items.

    Raises:
        ValueError: one of them is no number, or none that a rate can have.
    """
    found = at(content, *keys)
    wanted = ("count", "of", "share", "low", "high")
    if not isinstance(found, dict) or any(found.get(name) is None for name in wanted):
        return None
    place = ".".join(keys)
    for name in ("count", "of"):
        if type(found[name]) is not int or not 0 <= found[name] <= found["of"]:
            raise ValueError(f"{place}.{name} is {found[name]!r}; expected a count, at most {place}.of")
    for name in ("share", "low", "high"):
        if not 0.0 <= number_at(found, name, place=place) <= 1.0:
            raise ValueError(f"{place}.{name} is {found[name]!r}; expected a share from 0 to 1")
    return found


def number_at(content: Mapping[str, Any], key: str, *, place: str = "") -> float:
    """Return the number at `key`.

    Raises:
        ValueError: it is no finite number; the message names it with `place` before it.
    """
    value = content.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{place}{'.' if place else ''}{key} is {value!r}; expected a number")
    return value
