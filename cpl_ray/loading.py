"""From a YAML file and `key=value` overrides to a checked configuration, and back to YAML.

Every mistake becomes one `ConfigError` that lists all wrong keys with the value found and what would be valid.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from cpl_ray.config import Config
from cpl_ray.errors import ConfigError
from cpl_ray.files import NO_FILE, is_no_file
from cpl_ray.keys import all_keys, unknown_key
from cpl_ray.redaction import redact, redacted
from cpl_ray.settings_yaml import Dumper, OutOfBoundsError, read_yaml
from cpl_ray.tracking_uri import check_no_secret

_SHOWN_CHARACTERS = 80


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read the configuration at `path`, apply `overrides` in order and check everything.

    Args:
        path: a YAML file with a mapping of the keys of `Config`.
        overrides: `key.sub=value` each; the value is YAML (`null`, `[0.9, 0.95]`, `{a: 1}`), replaces what the file
            says and is taken as text where the key holds text. Below `deepspeed`, `data.columns` and
            `optimizer.options` any key may be set.

    Raises:
        ConfigError: the file is missing or no YAML mapping, a key is unknown, or a value is not valid.
    """
    tree = _read(Path(path))
    for override in overrides:
        _override(tree, override)
    _fill_empty_sections(tree)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        problems = _problems(error, tree)
        raise ConfigError(_join(f"{path}: the configuration is not valid", problems)) from None
    problems = _lax_values(tree, config, "")
    if problems:
        raise ConfigError(_join(f"{path}: the configuration is not valid", problems))
    check_no_secret(config)
    return config


def dump_config(config: Config) -> str:
    """Return `config` as YAML with every key; `load_config` reads it back to an equal configuration."""
    tree = config.model_dump()  # not in JSON mode, which turns an infinite number below `deepspeed` into null
    return yaml.dump(tree, Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False)


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.is_dir():
            raise ConfigError(f"{path} is a folder; name the YAML file of the configuration")
        if is_no_file(path):
            raise ConfigError(f"{path} {NO_FILE}")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"there is no configuration file {path}; `cpl init {path}` writes a starter") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}); is it a YAML file?") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    tree = _parse(text, str(path))
    if tree is None:
        raise ConfigError(f"{path} is empty; it needs at least `model` and `data`; `cpl init` writes a starter")
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold a mapping of keys such as `model: …`; found {_kind(tree)}")
    return tree


def _parse(text: str, source: str) -> Any:
    try:
        return read_yaml(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{source} is not valid YAML{where}: {error.problem}") from None
    except yaml.reader.ReaderError as error:  # characters that YAML does not allow
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{source} is not valid YAML in line {line}: {str(error).splitlines()[0]}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not valid YAML: {error}") from None


def _override(tree: dict[str, Any], override: str) -> None:
    """Set one `key=value` in `tree`, in place."""
    name, equals, text = override.partition("=")
    name = name.strip()
    source = f"override {_cut(repr(redact(f'{name}={redacted(text, name)}' if equals else override)))}"
    if not equals or not name:
        raise ConfigError(f"{source} is not of the form key=value, e.g. train.epochs=3")
    keys = all_keys()
    parts = name.split(".")
    known = next((k for n in range(len(parts), 0, -1) if (k := keys.get(".".join(parts[:n])))), None)
    if known is None or (known.name != name and not known.free):
        if known is not None and not known.section:
            raise ConfigError(f"{source}: {known.name!r} holds {known.valid}; nothing can be set below it")
        raise ConfigError(f"{source}: {unknown_key(name)}")
    value = _text(text, source) if known.text else _parse(text, source)
    place = tree
    for part in parts[:-1]:
        if not isinstance(place.get(part), dict):
            place[part] = {}
        place = place[part]
    place[parts[-1]] = value


def _text(text: str, source: str) -> Any:
    """Read the value of a key that holds text: as it stands, unless it is quoted, null or a list in YAML."""
    try:
        value = read_yaml(text)
    except OutOfBoundsError:
        return _parse(text, source)  # says so
    except yaml.YAMLError:
        return text
    quoted = isinstance(value, str) and text.strip()[0] in "'\""
    return value if value is None or quoted or isinstance(value, list) else text


def _fill_empty_sections(tree: dict[str, Any]) -> None:
    """Read a section without keys (`train:` and only comments below) as one that sets nothing, in place."""
    for key in all_keys().values():
        section, _, leaf = key.name.rpartition(".")
        place = tree.get(section) if section else tree
        if (key.section or key.free) and isinstance(place, dict) and leaf in place and place[leaf] is None:
            place[leaf] = {}


def _problems(error: ValidationError, tree: dict[str, Any]) -> list[str]:
    """Turn pydantic's errors into one sentence per key."""
    keys = all_keys()
    problems: dict[str, str] = {}
    for one in error.errors(include_url=False):
        location = [str(part) for part in one["loc"]]
        name = ".".join(location)
        if one["type"] == "extra_forbidden":
            problems[name] = unknown_key(name)
        elif one["type"] == "missing" and name in keys:
            problems[name] = f"{name} is missing: {keys[name].doc}"
        elif one["type"] == "value_error":
            problems[name or "combination"] = str(one["ctx"]["error"])
        else:
            # pydantic appends the branch of a union or the index in a list; what the user wrote is the key itself
            names = (".".join(location[:n]) for n in range(len(location), 0, -1))
            known = next((keys[key] for key in names if key in keys), None)
            if known is None:
                problems[name] = unknown_key(name)
                continue
            value: Any = tree
            for part in known.name.split("."):
                value = value[part]
            hint = f" ({known.doc})" if one["type"] == "string_pattern_mismatch" else ""
            if known.text and isinstance(value, bool | int | float):
                hint = " (quote it)"
            problems[known.name] = f"{known.name}: got {_shown(value)}; expected {known.valid}{hint}"
    return list(problems.values())


def _lax_values(raw: dict[str, Any], model: BaseModel, prefix: str) -> list[str]:
    """Find values that pydantic converts but nobody means: true as a number, and infinite or NaN numbers."""
    keys = all_keys()
    problems = []
    for name in type(model).model_fields:
        value = model.__dict__[name]
        key = keys[prefix + name]
        if isinstance(value, BaseModel):
            problems += _lax_values(raw.get(name, {}), value, f"{prefix}{name}.")
            continue
        given = raw.get(name)
        parts = list(zip(given, value, strict=True)) if isinstance(value, tuple) and given else [(given, value)]
        for was, now in parts:
            if isinstance(was, bool) and not isinstance(now, bool):
                problems.append(f"{key.name}: got {_shown(given)}; expected {key.valid}")
            elif isinstance(now, float) and not math.isfinite(now):
                problems.append(f"{key.name}: got {_shown(given)}; expected a finite value: {key.valid}")
    return problems


def _shown(value: Any) -> str:
    """Write `value` as YAML would, shortened, so that users recognise it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | dict):
        text = yaml.dump(value, Dumper=Dumper, default_flow_style=True, width=10**6).strip()
    else:
        text = repr(value)
    return _cut(redact(text))  # in this order: half an address does not show where its password is


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else "text" if isinstance(value, str) else "a single value"


def _join(head: str, problems: Sequence[str]) -> str:
    if len(problems) == 1:
        return f"{head}: {problems[0]}"
    return "\n".join([f"{head}:", *(f"  - {problem}" for problem in problems)])
