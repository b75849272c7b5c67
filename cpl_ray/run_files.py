"""Files of a run that another process may be writing, or that may be damaged."""

import json
from pathlib import Path
from typing import Any

from cpl_ray.config import Config
from cpl_ray.errors import ConfigError
from cpl_ray.loading import load_config
from cpl_ray.whole_numbers import whole_number


class DamagedError(Exception):
    """A file of a run does not hold what it should."""


def read_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in `path`, None where there is no such file.

    Raises:
        DamagedError: it holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_int=whole_number)
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path.name} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise DamagedError(f"{path.name} holds no JSON object")
    return content


def saved_config(folder: Path) -> Config:
    """Return the configuration that a run was started with.

    Raises:
        DamagedError: it is not valid, or of another version.
    """
    try:
        return load_config(folder / "config.yaml")
    except ConfigError as error:
        raise DamagedError(" ".join(str(error).replace(f"{folder}/", "").split())) from None
