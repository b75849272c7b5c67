"""What users, spreadsheets and strangers put into files: rows, files and settings, from nearly right to nonsense."""

import copy
import json
from typing import Any

import pyarrow as pa
import yaml
from hypothesis import strategies as st

from cpl_ray.items import COLUMNS
from cpl_ray.keys import all_keys

ODD_TEXTS = [
    "",
    " ",
    "\u00a0\u2009",
    "\u200b",
    "\ufeffBOM",
    "null",
    "NaN",
    "a\u0000b",
    "\u202eright to left",
    "e\u0301 \u00e9",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "东京",
    "السؤال",
    "x" * 3000,
    "{question}",
    "{{ 7*7 }}",
    "$(rm -rf /)",
    "<script>alert(1)</script>",
    "<|im_end|>",
    "</s>",
    "A",
    "B) neon",
    "1e400",
]
WORDS = st.lists(
    st.sampled_from("What is the capital of Norway iron neon Oslo 42 A: naïve 東京".split()), min_size=1
).map(" ".join)
TEXTS = WORDS | st.text(max_size=40) | st.sampled_from(ODD_TEXTS)
NUMBERS = st.integers() | st.integers(-2, 9) | st.floats() | st.sampled_from([10**400, -0.0, 1.0, 2.0])
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=12
)
CHOICES = st.lists(TEXTS, min_size=2, max_size=6) | st.lists(WORDS, min_size=2, max_size=6, unique=True)
TURNS = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant", "tool", "boss"]), "content": TEXTS}),
    max_size=4,
)
GOOD_ROWS = st.one_of(
    st.fixed_dictionaries({"question": WORDS, "choices": CHOICES, "answer": st.integers(0, 1)}),
    st.fixed_dictionaries({"question": TEXTS, "choices": CHOICES, "answer": st.integers(-1, 6)}),
    st.fixed_dictionaries({"prompt": WORDS, "completion": WORDS}),
    st.fixed_dictionaries({"question": TEXTS, "choices": CHOICES, "answer": st.sampled_from("ABCDabcd1")}),
    st.fixed_dictionaries({"question": TEXTS, "answer": TEXTS}),
    st.fixed_dictionaries({"question": TEXTS, "answers": st.lists(TEXTS, max_size=3)}),
    st.fixed_dictionaries({"cloze": TEXTS, "answer": TEXTS}),
    st.fixed_dictionaries({"prompt": TEXTS, "completion": TEXTS}),
    st.fixed_dictionaries({"messages": TURNS}),
)
CELLS = st.dictionaries(st.sampled_from(COLUMNS) | TEXTS, VALUES, max_size=4)
ROWS = GOOD_ROWS | st.builds(lambda row, cells: {**row, **cells}, GOOD_ROWS, CELLS) | CELLS


def as_json(value: Any) -> bytes:
    """Return JSON as Python writes it: NaN and Infinity included, which strict readers refuse."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", errors="surrogatepass")


LINES = ROWS.map(as_json) | VALUES.map(as_json) | st.binary(max_size=60) | st.just(b"")
JSONL = st.lists(LINES, max_size=6).map(b"\n".join)
JSON = st.lists(ROWS, max_size=4).map(as_json) | VALUES.map(as_json) | st.binary(max_size=80)
CSV_CELLS = TEXTS | st.sampled_from(['["a", "b"]', "a|b", '"', "0", "A"])
CSV = st.lists(
    st.lists(st.sampled_from(COLUMNS) | CSV_CELLS, min_size=1, max_size=5).map(",".join), min_size=1, max_size=5
).map(lambda lines: "\n".join(lines).encode("utf-8", errors="surrogatepass"))
FILES = (
    st.tuples(st.just("jsonl"), JSONL) | st.tuples(st.just("json"), JSON) | st.tuples(st.just("csv"), CSV)
)  # suffix and content


def _column(cells: list[Any]) -> pa.Array:
    """Return cells in the type that a table would have for all of them, as JSON text where they have none in common."""
    given = [cell for cell in cells if cell is not None]
    if all(isinstance(cell, list) and all(isinstance(one, str) for one in cell) for cell in given):
        return pa.array(cells, pa.list_(pa.string()))
    if all(isinstance(cell, int) and not isinstance(cell, bool) and abs(cell) < 2**63 for cell in given):
        return pa.array(cells, pa.int64())
    if all(isinstance(cell, float) for cell in given):
        return pa.array(cells, pa.float64())
    return pa.array(
        [cell if cell is None or isinstance(cell, str) else json.dumps(cell) for cell in cells], pa.string()
    )


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: _column([row.get(name) for row in rows]) for name in names})


TABLES = st.lists(ROWS, max_size=5).map(_table)

KEYS = sorted(all_keys())
BASE = {"model": "m", "data": {"items": "a.jsonl"}}


def _with(changes: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = json.loads(json.dumps(BASE))
    for name, value in changes:
        section: Any = tree
        *path, leaf = name.split(".")
        for part in path:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                break
        else:
            section[leaf] = copy.deepcopy(value)  # some values are shared between cases
    return tree


SETTINGS: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, False, 0, 1, 2, 0.5, 1e-4, [0.9, 0.95], {}, "adamw", "cpl", "a.jsonl"]
)
# YAML as it may be written, not as a writer writes it: tags, names for values, brackets without end
TAGS = st.sampled_from(
    "!!bool !!int !!float !!null !!str !!seq !!map !!set !!omap !!pairs !!binary !!timestamp !!merge !x !!x "
    "!!python/name:os.system ! !<x> &a &b".split()
)
WRITTEN_SCALARS = st.sampled_from(
    [*"x 1 1.5 true null ~ 2026-11-21 0x 0b_ 0b1 -_ 1:60 1:59.5 *a *b << =".split(), '""', "''", "0x" + "f" * 4000, ""]
) | TEXTS.map(json.dumps)
WRITTEN: st.SearchStrategy[str] = st.recursive(
    WRITTEN_SCALARS,
    lambda inner: st.one_of(
        st.builds("{} {}".format, TAGS, WRITTEN_SCALARS | inner),
        st.lists(inner, max_size=4).map(lambda parts: f"[{', '.join(parts)}]"),
        st.lists(st.tuples(inner, inner), max_size=3).map(
            lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs) + "}"
        ),
    ),
    max_leaves=8,
)
BRACKETS = st.builds(
    lambda start, end, depth, closed: start * depth + "1" + end * (depth if closed else 0),
    *(st.sampled_from(["[", "{a: ", "- ", "? ", "!!seq ["]), st.sampled_from(["]", "}", ""])),
    st.sampled_from([3, 50, 63, 64, 65, 300, 3000]),
    st.booleans(),
)


def _bomb(levels: int, width: int, form: str) -> str:
    """Return lines below `deepspeed`, each of which names the one before it several times."""
    lines = ["  a0: &a0 {k: 1}"]
    for level in range(1, levels):
        lines.append(f"  a{level}: &a{level} " + form.format(", ".join([f"*a{level - 1}"] * width)))
    return "\n".join(lines)


BOMBS = st.builds(
    _bomb, st.integers(1, 90), st.integers(1, 9), st.sampled_from(["[{}]", "{{<<: [{}]}}", "{{k: [{}]}}"])
)
LINES_OF_KEYS = st.lists(
    st.builds(
        lambda name, value: ": {".join(name.split(".")) + f": {value}" + "}" * name.count("."),
        st.sampled_from(KEYS),
        WRITTEN | BRACKETS,
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda line: line.partition(":")[0],
).map("\n".join)
WRITTEN_FILES = (LINES_OF_KEYS | BOMBS.map("deepspeed:\n{}".format)).map(
    lambda text: (text if text.startswith("model:") else f"model: m\n{text}").encode("utf-8", "surrogatepass")
)

TREES = st.lists(st.tuples(st.sampled_from(KEYS), SETTINGS | VALUES), min_size=1, max_size=3).map(_with)
DUMPED = TREES.map(lambda tree: yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass"))
YAML = DUMPED | WRITTEN_FILES | st.binary(max_size=100)
LIKELY = st.sampled_from(
    "null true false 0 1 2 0.5 1e-4 [0.9,0.95] {} epoch adamw sgd cpl none cut reject auto a.jsonl".split()
)
NAMES = st.integers(0, 5).flatmap(lambda chance: st.sampled_from(KEYS) if chance else TEXTS)
SAID = st.integers(0, 3).flatmap(lambda chance: (LIKELY, WRITTEN, BRACKETS, TEXTS)[chance])
OVERRIDES = st.lists(st.builds("{}={}".format, NAMES, SAID) | TEXTS, min_size=1, max_size=3)
