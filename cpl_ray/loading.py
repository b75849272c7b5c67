"""From a YAML file and `key=value` overrides to a checked configuration, and back to YAML.

Every mistake becomes one `ConfigError` that lists all wrong keys with the value found and what would be valid.
"""

import json
import math
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from cpl_ray.config import Config
from cpl_ray.errors import ConfigError
from cpl_ray.keys import all_keys, unknown_key
from cpl_ray.tracking_uri import check_no_secret

_FLOAT = re.compile(r"^[-+]?(?:\d[\d_]*)(?:\.\d*)?[eE][-+]?\d+$|^[-+]?\.\d+[eE][-+]?\d+$")
_SHOWN_CHARACTERS = 80


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads `1e-5` as a number, leaves dates as text and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} cannot be a key", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """The writer that matches `_Loader`: texts which it would read as numbers are quoted, nothing is an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_LINE_BREAKS = frozenset("\x85\u2028\u2029")  # YAML's own; unquoted or in single quotes they would be folded


def _represented(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if _LINE_BREAKS & set(text) else None)


_Dumper.add_representer(str, _represented)
for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


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
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False)


def _read(path: Path) -> dict[str, Any]:
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name the YAML file of the configuration")
    try:
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
        tree = yaml.load(text, Loader=_Loader)
        json.dumps(tree, default=str, skipkeys=True)  # an alias may make a tree that contains itself: ValueError
        return tree
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{source} is not valid YAML{where}: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source} is not valid YAML: {error}") from None


def _override(tree: dict[str, Any], override: str) -> None:
    """Set one `key=value` in `tree`, in place."""
    name, equals, text = override.partition("=")
    name = name.strip()
    if not equals or not name:
        raise ConfigError(f"override {override!r} is not of the form key=value, e.g. train.epochs=3")
    keys = all_keys()
    parts = name.split(".")
    known = next((k for n in range(len(parts), 0, -1) if (k := keys.get(".".join(parts[:n])))), None)
    if known is None or (known.name != name and not known.free):
        if known is not None and not known.section:
            raise ConfigError(f"override {override!r}: {known.name!r} holds {known.valid}; nothing can be set below it")
        raise ConfigError(f"override {override!r}: {unknown_key(name)}")
    value = _text(text) if known.text else _parse(text, f"override {override!r}")
    place = tree
    for part in parts[:-1]:
        if not isinstance(place.get(part), dict):
            place[part] = {}
        place = place[part]
    place[parts[-1]] = value


def _text(text: str) -> Any:
    """Read the value of a key that holds text: as it stands, unless it is quoted, null or a list in YAML."""
    try:
        value = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError):
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
        text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=10**6).strip()
    else:
        text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else "text" if isinstance(value, str) else "a single value"


def _join(head: str, problems: Sequence[str]) -> str:
    if len(problems) == 1:
        return f"{head}: {problems[0]}"
    return "\n".join([f"{head}:", *(f"  - {problem}" for problem in problems)])
