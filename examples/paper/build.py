"""Turn the question files of the paper's published code into items: python examples/paper/build.py CLONE FOLDER.

There, each set stands once per model, divided into `SET_correct_MODEL.jsonl` and `SET_wrong_MODEL.jsonl`, and each row
is `{"question": <the whole prompt>, "label": <letter>}`. Here it becomes one file per set, undivided: the project finds
out itself what a model has mastered.
"""

import json
import re
import sys
from pathlib import Path

SETS = ("mmlu", "medqa", "arc_c", "csqa")
MODEL = "Qwen2.5-1.5B-Instruct"
PROMPT = re.compile(
    r"Question: (?P<question>.*)\nOptions:\nA: (?P<A>.*)\nB: (?P<B>.*)\nC: (?P<C>.*)\nD: (?P<D>.*?)"
    r"\s*\nPlease [^\n]*\Z",
    re.DOTALL,
)


def item(row: dict[str, str], identifier: str) -> dict[str, object]:
    """Take a prompt apart.

    Raises:
        ValueError: It does not have the form of the published files.
    """
    found = PROMPT.match(row["question"])
    if found is None or row["label"] not in "ABCD":
        raise ValueError(f"{identifier}: no question with four options and a letter: {row!r}")
    choices = [found[letter].strip() for letter in "ABCD"]
    return {
        "id": identifier,
        "question": found["question"].strip(),
        "choices": choices,
        "answer": "ABCD".index(row["label"]),
    }


def build(clone: Path, folder: Path) -> dict[str, int]:
    """Write one JSONL file per set and return how many items each has."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = {}
    for name in SETS:
        lines = []
        for part in ("correct", "wrong"):
            source = clone / "data" / f"{name}_{part}_{MODEL}.jsonl"
            lines += [line for line in source.read_text(encoding="utf-8").splitlines() if line.strip()]
        items = [item(json.loads(line), f"{name}-{number}") for number, line in enumerate(lines)]
        text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in items)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
        counts[name] = len(items)
    return counts


if __name__ == "__main__":
    print(build(Path(sys.argv[1]), Path(sys.argv[2])))
