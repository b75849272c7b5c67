"""The YAML of a configuration, within bounds: what cannot be read is told with its place, whatever was written.

Only what JSON has too is read (texts, numbers, true and false, null, lists and mappings), to a limited depth; aliases
may repeat a limited number of values, since a few lines of them can stand for more than any memory holds.
"""

import re
from collections.abc import Hashable
from typing import Any

import yaml

from cpl_ray.redaction import redact

MAX_DEPTH = 64
MAX_REPEATED = 10_000
"""Values that aliases may stand for beyond those that are written out."""
_MAX_BITS = 1023  # a larger whole number has no float beside it, and its digits cannot always be printed
_SHOWN_CHARACTERS = 40

_PREFIX = "tag:yaml.org,2002:"
_MEANT = {
    "bool": "true or false",
    "int": "a whole number of at most 307 digits, such as 3",
    "float": "a number, such as 1e-5",
    "null": "null",
}
_TAGS = (*_MEANT, "str", "seq", "map")
_FLOAT = re.compile(r"^[-+]?(?:\d[\d_]*)(?:\.\d*)?[eE][-+]?\d+$|^[-+]?\.\d+[eE][-+]?\d+$")


class OutOfBoundsError(yaml.MarkedYAMLError):
    """YAML that is nested too deeply, contains itself, or repeats too much by aliases."""

    def __init__(self, problem: str, mark: yaml.Mark | None) -> None:
        super().__init__(problem=problem, problem_mark=mark)


class Loader(yaml.SafeLoader):
    """Safe YAML that reads `1e-5` as a number, leaves dates as text and refuses a key given twice."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Read one value, unless it lies too deep."""
        if self._depth >= MAX_DEPTH:
            mark = self.peek_event().start_mark
            raise OutOfBoundsError(f"nested too deeply; {MAX_DEPTH} levels are possible", mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Make one value; PyYAML's own constructors fail on a wrong text in ways that name no place."""
        try:
            value = super().construct_object(node, deep)
        except (LookupError, ValueError, OverflowError):
            raise _wrong(node) from None
        if isinstance(value, int) and value.bit_length() > _MAX_BITS:
            raise _wrong(node)
        return value

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Hashable, Any]:
        """Make a mapping; each key may be given once."""
        if not isinstance(node, yaml.MappingNode):
            raise yaml.constructor.ConstructorError(
                None, None, f"!!map needs a mapping, found {_shown(node)}", node.start_mark
            )
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == _PREFIX + "merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} cannot be a key", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_undefined(self, node: yaml.Node) -> Any:
        """Refuse a tag: what is not JSON has no place in a configuration, and some tags make any Python object."""
        tag = node.tag.replace(_PREFIX, "!!", 1)
        valid = ", ".join(f"!!{name}" for name in _TAGS)
        raise yaml.constructor.ConstructorError(
            None, None, f"the tag {tag[:_SHOWN_CHARACTERS]!r} is not known here; valid are {valid}", node.start_mark
        )


class Dumper(yaml.SafeDumper):
    """The writer that matches `Loader`: texts which it would read as numbers are quoted, nothing is an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write everything out."""
        return True


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _PREFIX + "timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.yaml_constructors = {
    tag: make
    for tag, make in yaml.SafeLoader.yaml_constructors.items()
    if tag is not None and tag.removeprefix(_PREFIX) in _TAGS
} | {None: Loader.construct_undefined}
_LINE_BREAKS = frozenset("\x85\u2028\u2029")  # YAML's own; unquoted or in single quotes they would be folded


def _represented(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar(_PREFIX + "str", text, style='"' if _LINE_BREAKS & set(text) else None)


Dumper.add_representer(str, _represented)
for _yaml in (Loader, Dumper):
    _yaml.add_implicit_resolver(_PREFIX + "float", _FLOAT, list("-+.0123456789"))


def read_yaml(text: str) -> Any:
    """Return what `text` says; a tree without cycles, at most `MAX_DEPTH` deep.

    Raises:
        OutOfBoundsError: it is no such tree, or its aliases repeat more than `MAX_REPEATED` values.
        yaml.YAMLError: it is not valid YAML in another way; a `MarkedYAMLError` says where.
    """
    loader = Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        sizes: dict[int, tuple[int, int] | None] = {}
        size, _ = _measured(node, sizes)
        if size > len(sizes) + MAX_REPEATED:
            raise OutOfBoundsError(
                f"its aliases repeat {size - len(sizes):,} values; {MAX_REPEATED:,} are possible", node.start_mark
            )
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _measured(node: yaml.Node, sizes: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Return how many values `node` stands for with its aliases written out, and how deep; each node is seen once.

    Args:
        node: as composed, where an alias is the very node that it names.
        sizes: what is known by the identity of nodes, filled in here; None: being measured, further up.
    """
    if id(node) in sizes:
        found = sizes[id(node)]
        if found is None:
            raise OutOfBoundsError("Circular reference: an alias stands inside of what it names", node.start_mark)
        return found
    sizes[id(node)] = None
    below: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        below = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        below = node.value
    measured = [_measured(part, sizes) for part in below]
    size, depth = 1 + sum(one[0] for one in measured), 1 + max((one[1] for one in measured), default=0)
    if depth > MAX_DEPTH:  # by aliases, each of which is written in few levels
        raise OutOfBoundsError(f"nested too deeply; {MAX_DEPTH} levels are possible", node.start_mark)
    sizes[id(node)] = size, depth
    return size, depth


def _wrong(node: yaml.Node) -> yaml.MarkedYAMLError:
    meant = _MEANT.get(node.tag.removeprefix(_PREFIX), "valid here")
    return yaml.constructor.ConstructorError(None, None, f"{_shown(node)} is not {meant}", node.start_mark)


def _shown(node: yaml.Node) -> str:
    """Return what was written; without secrets, and only then shortened."""
    if not isinstance(node, yaml.ScalarNode):
        return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
    text = redact(node.value)
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…")
