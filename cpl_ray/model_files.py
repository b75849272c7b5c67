"""What can be told of a model folder from its files alone, in no time: its configuration and the heads of its weights.

Loading says more, but needs torch and comes after minutes; what is cut short or not a model shows here.
"""

import json
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cpl_ray.errors import ConfigError

WEIGHTS = "*.safetensors"
_INDEX = "*.safetensors.index.json"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
_TOKENIZER_SETTINGS = "tokenizer_config.json"
_MAX_HEAD = 100_000_000
"""Bytes; the format's own limit."""
_LFS = b"version "
"""What a Git LFS pointer begins with; as a length it would be far beyond the limit."""


def wants_code(model: str) -> str:
    """Return what to say where a model needs code of its own and may not run it."""
    return (
        f"model {model!r} needs Python code that is shipped with it, which is not run unless you allow it: "
        "set trust_remote_code=true if you trust it, or give a model that transformers knows"
    )


def model_problems(model: str, folder: Path, *, trust_remote_code: bool) -> list[str]:
    """Return what keeps the model in `folder` from being loaded, as far as its files tell.

    Args:
        model: the folder as the configuration has it, for messages.
        folder: where the files are.
        trust_remote_code: the model may bring code of its own.
    """
    problems = []
    try:
        problems += _settings_problems(model, _object(folder / "config.json"), trust_remote_code)
    except ConfigError as error:
        problems.append(f"model: {model!r}: {error}")
    weights = sorted(folder.glob(WEIGHTS))
    if not weights:
        problems.append(f"model: {model!r} lacks weights ({WEIGHTS})")
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        problems.append(f"model: {model!r} lacks a tokenizer (e.g. tokenizer.json)")
    settings = [path for path in (folder / _TOKENIZER_SETTINGS,) if path.is_file()]
    indices = sorted(folder.glob(_INDEX))
    for check, paths in ((_check_weights, weights), (_check_index, indices), (_check_tokenizer, settings)):
        for path in paths:
            try:
                check(path)
            except ConfigError as error:
                problems.append(f"model: {model!r}: {error}")
    return problems


def _object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path.name} cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path.name} holds no JSON object")
    return content


def _settings_problems(model: str, settings: dict[str, Any], trust_remote_code: bool) -> list[str]:
    kind = settings.get("model_type")
    if isinstance(kind, str) and _known(kind):
        return []
    if isinstance(settings.get("auto_map"), dict):
        return [] if trust_remote_code else [wants_code(model)]
    if not isinstance(kind, str) or not kind:
        return [f"model: {model!r}: config.json names no model_type, so it is not the configuration of a model"]
    return [f"model: {model!r}: config.json names the model_type {kind!r}, which this version of transformers has not"]


def _known(kind: str) -> bool:
    """Tell whether transformers has models of this kind, from its source: importing its tables would import torch."""
    found = find_spec("transformers")
    if found is None or found.origin is None:
        return True
    tables = (Path(found.origin).parent / "models" / "auto").glob("*.py")
    texts = [path.read_text("utf-8") for path in tables if path.name in ("auto_mappings.py", "configuration_auto.py")]
    return not texts or any(f'"{kind}"' in text for text in texts)


def _check_weights(path: Path) -> None:
    """Check a file's head, and that it is as long as the head says.

    Raises:
        ConfigError: it is no safetensors file, or it is cut short.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as stream:
            start = stream.read(8)
            if start == _LFS:
                raise ConfigError(f"{path.name} is a Git LFS pointer and holds no weights; `git lfs pull` fetches them")
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
            if length > min(_MAX_HEAD, size - 8):
                raise ConfigError(f"{path.name} is no safetensors file, or is cut short ({size} bytes)")
            head = json.loads(stream.read(length))
        ends = [entry["data_offsets"][1] for name, entry in head.items() if name != "__metadata__"]
        whole = 8 + length + max(ends, default=0)
    except OSError as error:
        raise ConfigError(f"{path.name} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise ConfigError(f"{path.name} is no safetensors file: its head cannot be read") from None
    if whole != size:
        raise ConfigError(f"{path.name} has {size} bytes, its head says {whole}; copy it again")


def no_length(value: object) -> str:
    """Return what is wrong with a `model_max_length`; empty where it is a number of tokens."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return ""
    return f"model_max_length in {_TOKENIZER_SETTINGS} is {value!r}; expected a number of tokens"


def _check_tokenizer(path: Path) -> None:
    """Check the settings of a tokenizer.

    Raises:
        ConfigError: they cannot be read, or the longest length is none.
    """
    length = _object(path).get("model_max_length")
    if length is not None and (wrong := no_length(length)):
        raise ConfigError(wrong)


def _check_index(path: Path) -> None:
    """Check that all files that an index names are there.

    Raises:
        ConfigError: one is missing, or the index cannot be read.
    """
    places = _object(path).get("weight_map")
    if not isinstance(places, dict):
        raise ConfigError(f"{path.name} has no weight_map")
    missing = sorted({str(name) for name in places.values() if not (path.parent / str(name)).is_file()})
    if missing:
        raise ConfigError(f"{len(missing)} of the files that {path.name} names are missing, e.g. {missing[0]!r}")
