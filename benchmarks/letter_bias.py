"""What a letter-scored mastered set of a weak model is: `python -m benchmarks.letter_bias LETTERS ORDERS TEXT`.

The arguments are run folders that `cpl assess` left on the same items with the same model, with `assess.scorer`
`letter_logit`, the same with `assess.permutations`, and a scorer of the text of the answers (see docs/results.md).
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from cpl_ray.assessment import Assessment, read_assessment
from cpl_ray.measures import Rate, two_by_two


def main() -> None:
    """Compare three assessments of one model and print what each calls mastered."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.letter_bias", description=main.__doc__)
    for name, what in (("letters", "letter_logit"), ("orders", "letter_logit in several orders"), ("text", "by text")):
        parser.add_argument(name, type=Path, help=f"run folder of an assessment: {what}")
    options = parser.parse_args()
    read = {name: read_assessment(Path(folder) / "assessment") for name, folder in vars(options).items()}
    print(json.dumps({name: described(one) for name, one in read.items()} | compared(read), indent=1))


def described(assessment: Assessment) -> dict[str, Any]:
    """Return the shares of predicted letters and of the gold letters of both sides, and the own warning."""
    report = assessment.manifest["letter_report"]
    sides = {name: report[name] for name in ("mastered", "injection")}
    predicted = Counter(sides["mastered"]["predicted"]) + Counter(sides["injection"]["predicted"])
    return {
        "scorer": assessment.manifest["scorer"],
        "mastered": shown(sides["mastered"]["items"], predicted.total()),
        "predicted_letters": {letter: shown(count, predicted.total()) for letter, count in sorted(predicted.items())},
        "gold_of_mastered": sides["mastered"]["gold"],
        "gold_of_injection": sides["injection"]["gold"],
        "warning": report["warning"],
    }


def compared(read: dict[str, Assessment]) -> dict[str, Any]:
    """Return how much of the letter-scored mastered set another order of options, or the text, confirms."""
    correct = {name: verdicts(one) for name, one in read.items()}
    items = sorted(set.intersection(*(set(one) for one in correct.values())))
    mastered = [item for item in items if correct["letters"][item]]
    others = [item for item in items if not correct["letters"][item]]
    letters, text = ({item: correct[name][item] for item in items} for name in ("letters", "text"))
    return {
        "items": len(items),
        "of the letter-mastered, still right in every order": shown(
            sum(correct["orders"][i] for i in mastered), len(mastered)
        ),
        "known by text, of the letter-mastered": shown(sum(correct["text"][i] for i in mastered), len(mastered)),
        "known by text, of the others": shown(sum(correct["text"][i] for i in others), len(others)),
        "letters and text": two_by_two(letters, text).to_dict(),
    }


def verdicts(assessment: Assessment) -> dict[str, bool]:
    """Return whether each scored item was answered rightly."""
    return {row.item.id: row.before.correct for _, row in assessment.rows() if row.before and row.before.error is None}


def shown(count: int, of: int) -> str:
    """Say a count, its share and the 95 % interval."""
    rate = Rate(count, of)
    interval = rate.interval() or (0.0, 1.0)
    return f"{count} of {of} ({100 * (rate.share or 0):.0f} %, {100 * interval[0]:.0f}-{100 * interval[1]:.0f})"


if __name__ == "__main__":
    main()
