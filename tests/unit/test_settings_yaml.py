"""YAML that no writer writes: each ends with file, line and what would be valid, in no time."""

from pathlib import Path

import pytest

from cpl_ray.errors import ConfigError
from cpl_ray.loading import load_config
from cpl_ray.settings_yaml import MAX_DEPTH, MAX_REPEATED, read_yaml

BOMB = "\n".join(["  a0: &a0 {k: 1}", *(f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 14))])
MERGES = BOMB.replace("[", "{<<: [").replace("]", "]}")
CHAIN = "\n".join(["  a0: &a0 1", *(f"  a{n}: &a{n} [*a{n - 1}]" for n in range(1, 3000))])


def message(folder: Path, text: str, *overrides: str) -> str:
    (folder / "c.yaml").write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_config(folder / "c.yaml", overrides)
    assert raised.value.exit_code == 3
    assert len(str(raised.value)) < 1000
    return str(raised.value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("!!bool x", ("'x'", "true or false")),
        ('!!int ""', ("''", "a whole number")),
        ('!!float ""', ("''", "a number")),
        ("0b_", ("'0b_'", "a whole number")),
        ("0x" + "f" * 5000, ("0xfff", "a whole number of at most 307 digits")),
        ("!!timestamp x", ("'!!timestamp'", "!!int")),
        ("!!set [a]", ("'!!set'", "valid are !!bool")),
        ("!!binary x", ("'!!binary'",)),
        ("!!map [a]", ("!!map needs a mapping",)),
        ("!!seq x", ("sequence",)),
        ("!!python/name:os.system", ("python/name",)),
        ("[" * 3000, ("nested too deeply", str(MAX_DEPTH))),
        ("{a: " * 3000, ("nested too deeply",)),
        ("&a [*a]", ("Circular reference",)),
        ("a\0b", ("not allowed",)),
    ],
)
def test_values_of_no_use(tmp_path: Path, value: str, words: tuple[str, ...]) -> None:
    said = message(tmp_path, f"model: m\ndata: {{items: a}}\ntrain:\n  epochs: {value}\n")
    assert [word for word in (*words, "c.yaml", "not valid YAML in line 4") if word not in said] == []
    said = message(tmp_path, "model: m\n", f"train.epochs={value}")
    assert [word for word in (*words, "override 'train.epochs=", "not valid YAML in line 1") if word not in said] == []


@pytest.mark.parametrize("value", ["[" * 3000, "[" * 3000 + "]" * 3000, "&a [*a]"])
def test_keys_that_hold_text(tmp_path: Path, value: str) -> None:
    assert "override 'model=" in message(tmp_path, "model: m\n", f"model={value}")


@pytest.mark.parametrize(
    ("lines", "words"),
    [(BOMB, ("aliases repeat", f"{MAX_REPEATED:,}")), (MERGES, ("aliases repeat",)), (CHAIN, ("nested too deeply",))],
)
@pytest.mark.timeout(60)
def test_aliases(tmp_path: Path, lines: str, words: tuple[str, ...]) -> None:
    said = message(tmp_path, f"model: m\ndeepspeed:\n{lines}\n")
    assert [word for word in (*words, "c.yaml is not valid YAML in line") if word not in said] == []


def test_what_people_write_is_read() -> None:
    text = "a: &a {x: 1, y: [1, 2]}\nb: {<<: *a, x: !!float 2}\nc: [*a, *a]\nd: !!str 3\ne: 2026-11-21\nf: 1e-5\n"
    assert read_yaml(text) == {
        "a": {"x": 1, "y": [1, 2]},
        "b": {"x": 2.0, "y": [1, 2]},
        "c": [{"x": 1, "y": [1, 2]}] * 2,
        "d": "3",
        "e": "2026-11-21",
        "f": 1e-5,
    }
    deep = "[" * (MAX_DEPTH - 1) + "1" + "]" * (MAX_DEPTH - 1)
    assert str(read_yaml(deep)).replace(" ", "") == deep
