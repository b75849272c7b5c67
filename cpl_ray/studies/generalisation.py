"""What asking in other words says: is what was learned, and what was kept, bound to the prompt it was trained with?"""

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from cpl_ray.measures import Rate, TwoByTwo, two_by_two
from cpl_ray.studies.findings import Findings, Number, percent

OWN = "own"
"""The prompt that the run was assessed and trained with."""
METHODS = {"cpl": "CPL", "plain": "plain fine-tuning"}
HALF = 0.5
SIGNIFICANT = 0.05
_COUNTED = {
    "learned": ("injection_train", "learned"),
    "learned_held_out": ("injection_held_out", "learned"),
    "forgotten_held_out": ("mastered_test", "forgotten"),
    "forgotten_validation": ("mastered_validation", "forgotten"),
    "forgotten_in_set": ("mastered_train", "forgotten"),
}
Rows = list[dict[str, Any]]


def table_of(flips: Rows) -> Rows:
    """Return a row for each method and prompt.

    `learned` and `forgotten_…` with `_of` as in result.json, but by that prompt alone. `carried`: of the items learned
    under the own prompt those answered rightly under this one, out of the ones that the base model answered wrongly
    under it too; None for the own prompt.

    Args:
        flips: `method`, `prompt`, `id`, `part`, `flip` of every item that counts under that prompt.
    """
    by_prompt: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    for row in flips:
        parts = by_prompt.setdefault((row["method"], row["prompt"]), {})
        parts.setdefault(row["part"], {})[row["id"]] = row["flip"]
    rows = []
    for (method, prompt), parts in by_prompt.items():
        found: dict[str, Any] = {"method": method, "prompt": prompt}
        for name, (part, flip) in _COUNTED.items():
            own = list(parts.get(part, {}).values())
            found |= {name: own.count(flip), f"{name}_of": len(own)}
        known = by_prompt.get((method, OWN), {}).get("injection_train", {})
        asked = {key: flip for key, flip in parts.get("injection_train", {}).items() if known.get(key) == "learned"}
        carried = None if prompt == OWN else list(asked.values()).count("learned")
        rows.append({**found, "carried": carried, "carried_of": None if prompt == OWN else len(asked)})
    return rows


def paired_of(flips: Rows) -> dict[tuple[str, str], TwoByTwo]:
    """Compare the two methods on the same items: by prompt and `learned` or `forgotten_held_out`, first = CPL."""
    found = {}
    for prompt in dict.fromkeys(row["prompt"] for row in flips):
        for name in ("learned", "forgotten_held_out"):
            part, flip = _COUNTED[name]
            sides = [
                {
                    row["id"]: row["flip"] == flip
                    for row in flips
                    if (row["method"], row["prompt"], row["part"]) == (method, prompt, part)
                }
                for method in METHODS
            ]
            found[prompt, name] = two_by_two(sides[0], sides[1])
    return found


def pooled(rows: Rows, method: str, name: str) -> Rate:
    """Return a rate of a method over all other prompts together: an item counts once for each."""
    own = [row for row in rows if row["method"] == method and row["prompt"] != OWN]
    return Rate(sum(row[name] for row in own), sum(row[f"{name}_of"] for row in own))


def analyse(flips: Rows) -> Findings:
    """Return headline, verdict and tables; `flips` as in `table_of`, for both methods."""
    rows, paired = table_of(flips), paired_of(flips)
    headline: dict[str, Number] = {"prompts": len({row["prompt"] for row in rows} - {OWN})}
    for row in rows:
        if row["prompt"] == OWN:
            for name in ("learned", "forgotten_held_out", "forgotten_in_set"):
                headline[f"{name}_own_{row['method']}"] = Rate(row[name], row[f"{name}_of"]).share
    for method in METHODS:
        for name in ("learned", "carried", "forgotten_held_out", "forgotten_in_set"):
            headline[f"{name}_other_{method}"] = pooled(rows, method, name).share
    every = _sum([table for (prompt, name), table in paired.items() if prompt != OWN and name == "forgotten_held_out"])
    headline["mcnemar_forgotten_other"] = every.p_value
    first = (
        "Under each prompt only items count that the base model answered rightly (for forgetting) or wrongly (for "
        f"learning) under that same prompt. Other prompts: {headline['prompts']}; an item counts once for each."
    )
    sentences = [first, *_by_method(rows), _compared(every)]
    tests = [{"prompt": prompt, "measure": name, **table.to_dict()} for (prompt, name), table in paired.items()]
    tables = {"generalisation": rows, "paired": tests, "items": flips}
    return Findings(" ".join(sentences), headline, {name: pa.Table.from_pylist(own) for name, own in tables.items()})


def _by_method(rows: Rows) -> Iterator[str]:
    for method, title in METHODS.items():
        own = next(row for row in rows if (row["method"], row["prompt"]) == (method, OWN))
        who = title[0].upper() + title[1:]
        learned, carried = pooled(rows, method, "learned"), pooled(rows, method, "carried")
        forgotten, in_set = pooled(rows, method, "forgotten_held_out"), pooled(rows, method, "forgotten_in_set")
        yield (
            f"{who} learned {_counted(own, 'learned')} with its own prompt and {_said(learned)} with the others; of "
            f"what it had learned {_said(carried)} carried over{_range(rows, method)}, so {_bound(carried)}. It forgot "
            f"{_counted(own, 'forgotten_held_out')} of M test with its own prompt and {_said(forgotten)} with the "
            f"others, in-set {_counted(own, 'forgotten_in_set')} and {_said(in_set)}: "
            f"{_kept(Rate(own['forgotten_held_out'], own['forgotten_held_out_of']), forgotten)}."
        )


def _bound(carried: Rate) -> str:
    interval = carried.interval()
    if interval is None:
        return "whether it is bound to the prompt was not measured"
    if interval[0] > HALF:
        return "what was learned is for the most part not bound to the prompt"
    if interval[1] < HALF:
        return "what was learned is for the most part bound to the prompt"
    return "these items do not show whether most of it is bound to the prompt"


def _kept(own: Rate, other: Rate) -> str:
    """Compare forgetting under the own prompt and the others, by whether the intervals lie apart."""
    ours, theirs = own.interval(), other.interval()
    if ours is None or theirs is None:
        return "nothing to compare"
    if theirs[0] > ours[1]:
        return "what is kept is partly bound to the prompt"
    if theirs[1] < ours[0]:
        return "other prompts forget less than the own"
    return "what is kept is not shown to be bound to the prompt"


def _compared(every: TwoByTwo) -> str:
    if not every.of:
        return (
            "With the other prompts the base model answered nothing of M test rightly, so no forgetting was measured."
        )
    ours, theirs = every.first.count, every.second.count
    if every.p_value >= SIGNIFICANT:
        meaning = "no difference between the two is shown there"
    else:
        meaning = f"CPL forgets {'less' if ours < theirs else 'more'} there too" if ours != theirs else "they are equal"
    return (
        f"With the other prompts CPL forgot {ours} and plain fine-tuning {theirs} of {every.of} (exact McNemar p "
        f"{every.p_value:.2g}): {meaning}."
    )


def _range(rows: Rows, method: str) -> str:
    """Say which prompts carried least and most."""
    shares = {
        row["prompt"]: row["carried"] / row["carried_of"]
        for row in rows
        if row["method"] == method and row["prompt"] != OWN and row["carried_of"]
    }
    if len(shares) < 2:
        return ""
    least, most = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
    return f" ({percent(shares[least])} with {least}, {percent(shares[most])} with {most})"


def _sum(tables: list[TwoByTwo]) -> TwoByTwo:
    cells = ("both", "only_first", "only_second", "neither")
    return TwoByTwo(*(sum(vars(table)[cell] for table in tables) for cell in cells))


def _counted(row: Mapping[str, Any], name: str) -> str:
    return f"{row[name]} of {row[f'{name}_of']}"


def _said(rate: Rate) -> str:
    return f"{rate.count} of {rate.of}"
