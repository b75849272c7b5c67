"""What injection in rounds says: what of each part survives the rounds after it, and what of M test survives all."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from cpl_ray.measures import Rate, TwoByTwo, two_by_two
from cpl_ray.studies.findings import Findings, Number, percent
from cpl_ray.studies.rounds import INJECTION, Rows, counts

NAMES = {"cpl": "CPL", "fine_tuning": "Plain fine-tuning"}
"""The methods of the study, and how a text names them."""
SIGNIFICANT = 0.05
Matrix = Sequence[Sequence[float]]


def matrix(rounds: Sequence[Mapping[str, Any]], method: str) -> list[list[float]]:
    """Return R: R[t][i] is the share of part i that is right after round t, both from 0; all parts in every row."""
    shares = {
        (row["round"], int(row["part"].removeprefix(INJECTION))): row["right"] / row["of"]
        for row in rounds
        if row["method"] == method and row["part"].startswith(INJECTION) and row["round"] > 0
    }
    num_rounds = max(after for after, _ in shares)
    return [[shares[after, part] for part in range(1, num_rounds + 1)] for after in range(1, num_rounds + 1)]


def backward_transfer(of: Matrix) -> float:
    """Return the mean over the parts but the last of R[T, i] - R[i, i] (Lopez-Paz and Ranzato, GEM, arXiv 1706.08840).

    In [-1, 1]; negative: later rounds cost what earlier ones had injected.
    """
    earlier = range(len(of) - 1)
    return sum(of[-1][i] - of[i][i] for i in earlier) / len(earlier)


def forgetting(of: Matrix) -> float:
    """Return the mean over the parts but the last of max R[t, i] over t < T, less R[T, i].

    As Chaudhry et al. define it (arXiv 1801.10112). In [-1, 1]; positive: parts were once answered better than at the
    end.
    """
    earlier = range(len(of) - 1)
    return sum(max(row[i] for row in of[:-1]) - of[-1][i] for i in earlier) / len(earlier)


def forgotten(rounds: Sequence[Mapping[str, Any]], method: str) -> list[Rate]:
    """Return what of M test the base model had right and the method has wrong, after each round."""
    rows = [row for row in rounds if (row["method"], row["part"]) == (method, "mastered_test") and row["round"] > 0]
    return [Rate(row["of"] - row["right"], row["of"]) for row in sorted(rows, key=lambda row: row["round"])]


def survived(rounds: Sequence[Mapping[str, Any]], method: str) -> Rate:
    """Return what of all parts together is right after the last round."""
    own = [row for row in rounds if row["method"] == method]
    last = max(row["round"] for row in own)
    ends = [row for row in own if row["round"] == last and row["part"].startswith(INJECTION)]
    return Rate(sum(row["right"] for row in ends), sum(row["of"] for row in ends))


def paired(items: Sequence[Mapping[str, Any]], prefix: str, methods: tuple[str, str]) -> TwoByTwo:
    """Return the items of parts named `prefix…` that are right after the last round: first and second method."""
    last = max(row["round"] for row in items)
    found: dict[str, dict[str, bool]] = {method: {} for method in methods}
    for row in items:
        if row["round"] == last and row["part"].startswith(prefix):
            found[row["method"]][row["id"]] = row["right"]
    return two_by_two(found[methods[0]], found[methods[1]])


def analyse(items: Rows, *, lr: float, keep_learned: bool) -> Findings:
    """Return headline, verdict and the tables `rounds` and `items`.

    Args:
        items: as `rounds.answered` gives them, for both methods, for the base model (round 0) and after every round.
        lr: the learning rate of both methods.
        keep_learned: whether learned items joined the mastered set.
    """
    rounds = counts(items)
    headline: dict[str, Number] = {}
    sentences = [_setting(rounds, keep_learned)]
    for method in NAMES:
        found, lost, alive = matrix(rounds, method), forgotten(rounds, method), survived(rounds, method)
        headline |= {
            f"bwt_{method}": backward_transfer(found),
            f"forgetting_{method}": forgetting(found),
            f"learned_{method}": sum(found[i][i] for i in range(len(found))) / len(found),
            f"survived_{method}": alive.share,
            f"forgotten_held_out_{method}": lost[-1].share if lost else None,
        }
        sentences.append(_of_method(method, found, lost, alive))
    methods = ("cpl", "fine_tuning")
    held_out, injected = paired(items, "mastered_test", methods), paired(items, INJECTION, methods)
    headline |= {"mcnemar_held_out": held_out.p_value, "mcnemar_injected": injected.p_value}
    sentences += [_compared("M test", held_out), _compared("all that was injected", injected)]
    sentences.append(f"Both were trained at the rate {lr:.3g}, which was tuned for neither here.")
    tables = {"rounds": pa.Table.from_pylist(rounds), "items": pa.Table.from_pylist(items)}
    return Findings(" ".join(sentences), headline, tables)


def _setting(rounds: Rows, keep_learned: bool) -> str:
    base = [row for row in rounds if (row["method"], row["round"]) == ("cpl", 0)]
    sizes = [str(row["of"]) for row in base if row["part"].startswith(INJECTION)]
    joined = "what was learned joins the mastered set" if keep_learned else "only the original M train is protected"
    return f"The injection set was injected in {len(sizes)} rounds of {', '.join(sizes)} items; {joined}."


def _of_method(method: str, of: Matrix, lost: Sequence[Rate], alive: Rate) -> str:
    own = ", ".join(percent(of[i][i]) for i in range(len(of)))
    first = ", ".join(percent(row[0]) for row in of)
    text = (
        f"{NAMES[method]} has right of each part after its own round {own}, of the first part after each round "
        f"{first}, of all parts after the last {alive.count} of {alive.of} ({percent(alive.share)}). "
        f"Backward transfer is {backward_transfer(of):+.3f}, forgetting of parts {forgetting(of):.3f}."
    )
    if not lost or not lost[-1].of:
        return f"{text} There is no M test to measure forgetting on."
    low, high = lost[-1].interval() or (0.0, 1.0)
    course = ", ".join(str(rate.count) for rate in lost)
    return (
        f"{text} Of the {lost[-1].of} items of M test it has forgotten {course} after each round, at the end "
        f"{percent(lost[-1].share)} [{percent(low)}, {percent(high)}]."
    )


def _compared(what: str, right: TwoByTwo) -> str:
    first, second = right.first.count, right.second.count
    p = f"exact McNemar p {right.p_value:.2g}"
    if not right.of:
        return f"Of {what} there is nothing to compare."
    if first == second or right.p_value >= SIGNIFICANT:
        meaning = "these items do not tell the methods apart"
    else:
        meaning = f"{'CPL' if first > second else 'plain fine-tuning'} keeps more"
    return (
        f"After the last round {first} (CPL) and {second} (fine-tuning) of {right.of} items of {what} are right: "
        f"{meaning} ({p})."
    )
