"""What the tables of the similarity probe say: the share that conflicts, where, over training, and S as a forecast."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from cpl_ray.studies.auc import Auc, auc
from cpl_ray.studies.findings import Findings, Number, percent

CLAIM = (0.50, 0.75)
"""The paper's range of the conflicting share (arXiv 2601.21577)."""
Rows = list[dict[str, Any]]


def with_fate(items: pa.Table, ledger: pa.Table) -> pa.Table:
    """Return the items that count with `forgotten` (bool) and `before_margin` of the ledger of the trained model."""
    fates = {row["id"]: row for row in ledger.select(["id", "flip", "before_margin"]).to_pylist()}
    rows = [
        {
            **row,
            "before_margin": fates[row["id"]]["before_margin"],
            "forgotten": fates[row["id"]]["flip"] == "forgotten",
        }
        for row in items.to_pylist()
        if fates[row["id"]]["flip"] is not None
    ]
    schema = pa.schema([*items.schema, pa.field("before_margin", pa.float64()), pa.field("forgotten", pa.bool_())])
    return pa.Table.from_pylist(rows, schema=schema)


def shares_by(rows: Rows, key: str) -> dict[str, dict[str, float]]:
    """Return by the value of `key` (`layer` or `type`) the shares `conflict`, `zero` and the number of parameters."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        own = found.setdefault(row[key], {"numel": 0.0, "conflict": 0.0, "zero": 0.0})
        for name in own:
            own[name] += row[name]
    return {
        name: {"numel": own["numel"], "conflict": own["conflict"] / own["numel"], "zero": own["zero"] / own["numel"]}
        for name, own in found.items()
        if own["numel"]
    }


def forecasts(items: Rows) -> dict[str, Auc | None]:
    """Return by predictor of forgetting how well it does: what training moves against an item, and how weak it was."""
    forgotten = [row["forgotten"] for row in items]
    scores = {
        "similarity": [-row["similarity"] for row in items],
        "cosine": [-row["cosine"] for row in items],
        "loss": [row["loss"] for row in items],
    }
    return {name: auc(values, forgotten) for name, values in scores.items()}


def analyse(tables: Mapping[str, pa.Table], optimizer: str) -> Findings:
    """Return headline and verdict for `course`, `parameters`, `histogram` and `items` (with their fate).

    `optimizer` is the run's `optimizer.name`: the verdict says where S is not made of its update.
    """
    course, items = tables["course"].to_pylist(), tables["items"].to_pylist()
    base = [row for row in tables["parameters"].to_pylist() if row["step"] == 0]
    first, last = course[0], course[-1]
    conflict, zero = first["conflict"] / first["numel"], first["zero"] / first["numel"]
    of_nonzero = first["conflict"] / max(1, first["numel"] - first["zero"])
    layers, types = shares_by(base, "layer"), shares_by(base, "type")
    found = forecasts(items)
    headline: dict[str, Number] = {
        "conflict_share": conflict,
        "zero_share": zero,
        "conflict_share_of_nonzero": of_nonzero,
        "collaborative_share": 1.0 - conflict,
        "similarity_base": first["similarity"],
        "similarity_last": last["similarity"],
        "conflict_share_last": last["conflict"] / last["numel"],
        "items": len(items),
        "items_forgotten": sum(row["forgotten"] for row in items),
    }
    for name, one in found.items():
        headline[f"auc_{name}"] = one.value if one else None
        headline |= {f"auc_{name}_low": one.low, f"auc_{name}_high": one.high} if one else {}
    sentences = [
        _claim(conflict, of_nonzero, zero, optimizer),
        f"By layer it lies between {_range(layers)}; by type between {_range(types)}.",
        _over_time(course),
        _forecast(found, headline),
    ]
    return Findings(" ".join(sentences), headline, tables)


def _claim(conflict: float, of_nonzero: float, zero: float, optimizer: str) -> str:
    low, high = CLAIM
    inside = low <= conflict <= high
    other = (
        "" if optimizer == "sgd" else f", with u = g_I as in plain SGD, although this run's optimizer is {optimizer}"
    )
    text = (
        f"At the base model {percent(conflict)} of all parameters conflict (s_j = g_I,j * g_M,j < 0{other}) and "
        f"{percent(1 - conflict)} are collaborative, {percent(zero)} because s_j is exactly zero; of those that are "
        f"not zero {percent(of_nonzero)} conflict. "
    )
    verdict = (
        "The paper's claim of 50 to 75 % conflicting holds here"
        if inside
        else ("The paper's claim of 50 to 75 % conflicting does not hold here")
    )
    if not inside and low <= of_nonzero <= high:
        verdict += " over all parameters, but does among those that are not zero"
    return f"{text}{verdict}."


def _range(shares: Mapping[str, Mapping[str, float]]) -> str:
    ordered = sorted(shares, key=lambda name: shares[name]["conflict"])
    least, most = ordered[0], ordered[-1]
    return f"{percent(shares[least]['conflict'])} ({least}) and {percent(shares[most]['conflict'])} ({most})"


def _over_time(course: Rows) -> str:
    first, last = course[0], course[-1]
    shares = [row["conflict"] / row["numel"] for row in course]
    negative = sum(row["similarity"] < 0 for row in course)
    return (
        f"While plain fine-tuning goes on (update 0 to {last['step']}, {len(course)} moments) S(M, I) goes from "
        f"{first['similarity']:.3g} to {last['similarity']:.3g} and is negative at {negative} of the {len(course)} "
        f"moments; the conflicting share stays between {percent(min(shares))} and {percent(max(shares))}."
    )


def _forecast(found: Mapping[str, Auc | None], headline: Mapping[str, Number]) -> str:
    forgotten, count = headline["items_forgotten"], headline["items"]
    own = found["similarity"]
    if own is None:
        return (
            f"Plain fine-tuning forgot {forgotten} of {count} items looked at, too few or too many on one side for an "
            "AUC: whether S(m, I) of an item predicts its forgetting cannot be told here."
        )
    if own.low > 0.5:
        meaning = "S(m, I) at the base model predicts which items are forgotten"
    elif own.high < 0.5:
        meaning = "S(m, I) predicts the opposite of what the paper says"
    else:
        meaning = "S(m, I) at the base model does not tell which items are forgotten, as far as these items can show"
    others = ", ".join(
        f"{name} {one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"
        for name, one in (("cosine of the two gradients", found["cosine"]), ("the item's own loss", found["loss"]))
        if one is not None
    )
    return (
        f"Plain fine-tuning forgot {forgotten} of {count} items looked at; {meaning}: AUC of -S(m, I) {own.value:.2f} "
        f"[{own.low:.2f}, {own.high:.2f}] (95 %, DeLong; Mann-Whitney p {own.p_value:.2g}). For comparison: {others}."
    )
