"""All configuration keys by their dotted names, read from the configuration models so that nothing can drift.

Used wherever a key must be named, explained or guessed: loading, notices, the starter configuration.
"""

import difflib
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cpl_ray.config import Config

_NUM_SHOWN = 30


@dataclass(frozen=True)
class Key:
    """One key or section of the configuration."""

    name: str
    """Dotted name, e.g. `train.epochs`."""
    doc: str
    """What the key means, as documented on the field; one line."""
    valid: str
    """What values are valid, in words."""
    default: Any
    """Default value; `...` where the key is required."""
    section: bool
    """True: holds further documented keys."""
    free: bool
    """True: a free mapping, anything may be below it."""
    text: bool
    """True: a single number or word given for it is meant as text."""


@cache
def all_keys() -> dict[str, Key]:
    """Return every section and key of the configuration in the order of definition."""
    schema = Config.model_json_schema()
    found: dict[str, Key] = {}
    _collect(Config, schema, schema["$defs"], "", found)
    return found


def _collect(model: type[BaseModel], schema: dict[str, Any], defs: dict[str, Any], prefix: str, found: Any) -> None:
    for name, field in model.model_fields.items():
        entry = schema["properties"][name]
        below = field.annotation
        section = isinstance(below, type) and issubclass(below, BaseModel)
        if section:
            entry = defs[below.__name__]  # type: ignore[union-attr]
        found[prefix + name] = Key(
            name=prefix + name,
            doc=" ".join(entry.get("description", "").split()),
            valid="a section with keys of its own" if section else describe(entry),
            default=_default(field),
            section=section,
            free=entry.get("type") == "object" and not section,
            text=_only_text(entry),
        )
        if section:
            _collect(below, entry, defs, f"{prefix}{name}.", found)  # type: ignore[arg-type]


def _default(field: FieldInfo) -> Any:
    return ... if field.is_required() else field.get_default(call_default_factory=True)


def _only_text(entry: dict[str, Any]) -> bool:
    kinds = {branch.get("type") for branch in entry.get("anyOf", [entry])}
    return "string" in kinds and not kinds & {"integer", "number", "boolean"} and "enum" not in entry


def describe(entry: dict[str, Any]) -> str:
    """Say in words which values the JSON schema `entry` allows, e.g. `an integer of at least 1, or null`."""
    if "anyOf" in entry:
        return ", or ".join(describe(branch) for branch in entry["anyOf"])
    if "const" in entry:
        return repr(entry["const"])
    if "enum" in entry:
        return "one of " + ", ".join(repr(value) for value in entry["enum"])
    kind = entry.get("type")
    if kind in ("integer", "number"):
        return ("an integer" if kind == "integer" else "a number") + _limits(entry)
    if kind == "array":
        if "prefixItems" in entry:
            return f"a list of {len(entry['prefixItems'])}: " + "; ".join(describe(e) for e in entry["prefixItems"])
        items = entry.get("items", {})
        if "enum" in items:
            return "a list out of " + ", ".join(repr(value) for value in items["enum"])
        if "anyOf" in items:
            return "a list of: " + describe(items)
        kinds = {"integer": "whole numbers", "number": "numbers"}
        return f"a list of {kinds.get(items.get('type'), 'texts')}{_limits(items)}"
    if kind == "string" and "pattern" in entry:
        return f"text of the form {entry['pattern']}"
    return {"string": "text", "boolean": "true or false", "null": "null", "object": "a mapping"}.get(
        str(kind), "a value"
    )


def _limits(entry: dict[str, Any]) -> str:
    low, high = entry.get("minimum"), entry.get("maximum")
    above, below = entry.get("exclusiveMinimum"), entry.get("exclusiveMaximum")
    parts = []
    if low is not None and high is not None and entry["type"] == "number":
        return f" from {low:g} to {high:g}"
    if low is not None:
        parts.append(f"of at least {low:,}")
    if above is not None:
        parts.append(f"above {above:g}")
    if high is not None:
        parts.append(f"of at most {high:,}")
    if below is not None:
        parts.append(f"below {below:,}")
    return " " + " and ".join(parts) if parts else ""


def nearest(name: str) -> list[str]:
    """Return up to three valid keys that `name` may stand for, most likely first; empty if none is like it."""
    keys = all_keys()
    wanted = name.replace("-", "_").lower()
    section, _, leaf = wanted.rpartition(".")
    same_leaf = [key for key in keys if key.rpartition(".")[2] == leaf]
    if same_leaf:
        return same_leaf[:3]
    siblings = {key.rpartition(".")[2]: key for key in keys if key.rpartition(".")[0] == section}
    leaves: dict[str, str] = {}
    for key in keys:
        leaves.setdefault(key.rpartition(".")[2], key)
    close = [siblings[key] for key in difflib.get_close_matches(leaf, siblings, n=2, cutoff=0.7)]
    close += [siblings[key] for key in siblings if len(leaf) > 2 and (key.startswith(leaf) or leaf.startswith(key))]
    close += difflib.get_close_matches(wanted, keys, n=1, cutoff=0.8)
    close += [leaves[key] for key in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.75)]
    return [key for key in dict.fromkeys(close) if not wanted.startswith(key + ".")][:3]


def unknown_key(name: str) -> str:
    """Say that `name` is no key, and what may have been meant or which keys its section has."""
    guesses = nearest(name)
    if guesses:
        return f"unknown key {name!r}; did you mean {' or '.join(repr(guess) for guess in guesses)}?"
    section = name.rpartition(".")[0]
    keys = all_keys()
    while section and section not in keys:
        section = section.rpartition(".")[0]
    parts = name.split(".")
    if not section and len(parts) > 1:
        return f"unknown section {parts[0]!r}; sections are: {', '.join(k.name for k in keys.values() if k.section)}"
    below = [key for key in keys if key.rpartition(".")[0] == section]
    shown = ", ".join(below[:_NUM_SHOWN]) + (", …" if len(below) > _NUM_SHOWN else "")
    return f"unknown key {name!r}; valid here: {shown}"
