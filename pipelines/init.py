"""`cpl init`: a starter configuration, generated from the configuration's own documentation."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from cpl_ray.errors import ConfigError
from cpl_ray.keys import all_keys
from cpl_ray.rundir import atomic_write_text
from pipelines.console import AsJson, Outcome, Quiet, execute

_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
_HEAD = """\
# A run of cpl-ray. Keys that are commented out show their default; after `#=` stands what is valid.
# Next: put your questions into {items}, then `cpl validate {path}` and `cpl run {path}`.
# Paths are relative to the folder the command is started in.
# Any key can be overridden on the command line: cpl run {path} optimizer.lr=1e-4
"""
_EXAMPLES = (
    {"question": "What is the capital of Australia?", "choices": ["Sydney", "Canberra", "Perth"], "answer": 1},
    {"question": "Which gas do plants take up?", "choices": ["carbon dioxide", "helium", "neon", "argon"], "answer": 0},
    {"question": "How many legs has a spider?", "choices": ["six", "eight", "ten", "twelve"], "answer": 1},
    {"question": "Which planet is nearest to the Sun?", "choices": ["Venus", "Mars", "Mercury"], "answer": 2},
)


def init(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Where to write it.")] = Path("cpl.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write a commented starter configuration, and a few example items beside it if there are none."""

    def work() -> dict[str, Any]:
        return write_starter(path, force=force)

    def show(written: dict[str, Any]) -> None:
        print(f"wrote {' and '.join(written['written'])}; next: cpl validate {path}")

    execute(Outcome("init", as_json, quiet=quiet), work, show)


def write_starter(path: Path, *, force: bool) -> dict[str, Any]:
    """Write the starter configuration to `path` and, unless it exists, `items.jsonl` beside it.

    Returns:
        `written`: the files that were written.

    Raises:
        ConfigError: `path` exists and `force` is False, or cannot be written.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name the file to write, e.g. {path / 'cpl.yaml'}")
    if path.exists() and not force:
        raise ConfigError(f"{path} exists already; name another file, or replace it with --force")
    items = path.parent / "items.jsonl"
    written = [str(path)]
    try:
        atomic_write_text(path, starter(path, items))
        if not items.exists():
            atomic_write_text(items, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _EXAMPLES))
            written.append(str(items))
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
    return {"written": written}


def starter(path: Path, items: Path) -> str:
    """Return the text of a configuration that sets `model` and `data.items` and shows all other keys, commented out."""
    values = {"model": _MODEL, "data.items": str(items)}
    lines = [_HEAD.format(path=path, items=items)]
    for key in all_keys().values():
        section = key.name.rpartition(".")[0]
        indent = "  " if section else ""
        if key.section or not section:
            lines.append("")
        lines.append(f"{indent}# {key.doc}")
        leaf = key.name.rpartition(".")[2]
        if key.section:
            lines.append(f"{leaf}:")
        elif key.name in values:
            lines.append(f"{indent}{leaf}: {_flow(values[key.name])}  #= {key.valid}")
        else:
            lines.append(f"{indent}# {leaf}: {_flow(key.default)}  #= {key.valid}")
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    """Write one value as YAML on one line."""
    value = list(value) if isinstance(value, tuple) else value
    # only double quotes write a line end as \n
    style = '"' if isinstance(value, str) and "\n" in value else None
    text = yaml.safe_dump(value, default_flow_style=True, default_style=style, width=10**6, allow_unicode=True).strip()
    return text.removesuffix("...").strip()
