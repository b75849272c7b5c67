"""What runs with four optimizers say: does the rule hold with each, and what does masking the gradient let through?"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from cpl_ray.compare_choice import Measured
from cpl_ray.measures import Rate, TwoByTwo
from cpl_ray.studies.findings import Findings, Number, percent

MASKS = ("update", "gradient", "none")
"""`train.mask_on` of the rule; `none` is plain fine-tuning."""
SIGNIFICANT = 0.05
PAPER_DECAY = 0.1
_TITLES = {"update": "mask on the update", "gradient": "mask on the gradient", "none": "plain fine-tuning"}
_PARTS = ("held_out", "validation", "in_set")
Rows = list[dict[str, Any]]


def settings_of(optimizer: str, mask: str, rate: float, weight_decay: float) -> dict[str, Any]:
    """Return the keys of a run.

    Args:
        optimizer: `sgd`, `momentum` (SGD with momentum 0.9), `adam` or `adamw`.
        mask: one of `MASKS`.
        rate: learning rate.
        weight_decay: of the configuration. Only `adamw` decays, with the paper's 0.1 where this is 0.
    """
    return {
        "optimizer.name": "sgd" if optimizer == "momentum" else optimizer,
        "optimizer.momentum": 0.9 if optimizer == "momentum" else 0.0,
        "optimizer.weight_decay": (weight_decay or PAPER_DECAY) if optimizer == "adamw" else 0.0,
        "optimizer.lr": rate,
        "train.rule": "none" if mask == "none" else "cpl",
        **({} if mask == "none" else {"train.mask_on": mask}),
    }


def row_of(optimizer: str, mask: str, one: Measured) -> dict[str, Any]:
    """Return what a run did.

    `moves` is the number of stored values that changed, summed over updates, and `moved_against` how many of these went
    against g_M; both None without a mask, where no sign of g_M is kept.
    """
    result, learned = one.result, one.trial.learned
    row: dict[str, Any] = {
        "optimizer": optimizer,
        "mask": mask,
        "rate": one.rate,
        "reached": one.reached,
        "updates": one.steps,
        "learned": learned.count,
        "learned_of": learned.of,
    }
    for part in _PARTS:
        rate = one.trial.forgotten[part]
        row |= {f"forgotten_{part}": rate.count, f"forgotten_{part}_of": rate.of}
    masked, share = mask != "none", result["moved_share"]
    moves = round(share * result["num_params"] * one.steps) if masked and share is not None else None
    return row | {
        "moved_against": result["moved_against"] if masked else None,
        "moves": moves,
        "collaborative_share": result["collaborative_share"],
        "flip_rate": result["flip_rate"],
    }


def analyse(rows: Rows, rates: Rows, paired: Mapping[tuple[str, str], TwoByTwo]) -> Findings:
    """Return headline, verdict and tables.

    Args:
        rows: of `row_of`, the chosen rate of each optimizer and mask.
        rates: the same of every rate, with `chosen`.
        paired: by optimizer and other mask (`gradient`, `none`) the items of M test forgotten, first = mask on the
            update, second = the other.
    """
    headline: dict[str, Number] = {}
    for row in rows:
        key = f"{row['optimizer']}_{row['mask']}"
        headline |= {
            f"rate_{key}": row["rate"],
            f"learned_{key}": Rate(row["learned"], row["learned_of"]).share,
            f"forgotten_{key}": Rate(row["forgotten_held_out"], row["forgotten_held_out_of"]).share,
        }
        if row["mask"] != "none":
            headline[f"moved_against_{key}"] = row["moved_against"]
            headline[f"moved_against_share_{key}"] = _against_share(row)
    headline |= {f"mcnemar_{optimizer}_{mask}": table.p_value for (optimizer, mask), table in paired.items()}
    sentences = [_invariant(rows), *_leaks(rows), *_numbers(rows), *_differences(rows, paired)]
    tests = [{"optimizer": key[0], "first": "update", "second": key[1], **t.to_dict()} for key, t in paired.items()]
    tables = {"optimizers": rows, "rates": rates, "paired": tests}
    return Findings(" ".join(sentences), headline, {name: pa.Table.from_pylist(own) for name, own in tables.items()})


def _against_share(row: Mapping[str, Any]) -> float | None:
    return row["moved_against"] / row["moves"] if row["moves"] else None


def _invariant(rows: Rows) -> str:
    own = [row for row in rows if row["mask"] == "update"]
    broken = [row for row in own if row["moved_against"]]
    if broken:
        counts = ", ".join(f"{row['moved_against']} with {row['optimizer']}" for row in broken)
        return f"With the mask on the update stored values moved against g_M, which must not be: {counts}."
    if not own:
        return "No run with the mask on the update was measured."
    return (
        f"With the mask on the update no stored value moved against g_M with {_listed([r['optimizer'] for r in own])}."
    )


def _leaks(rows: Rows) -> list[str]:
    own = [row for row in rows if row["mask"] == "gradient"]
    if not own:
        return []
    shares = "; ".join(
        f"{row['optimizer']} {row['moved_against']} of {row['moves']} moves ({percent(_against_share(row))})"
        for row in own
    )
    return [f"With the mask on the gradient these went against g_M: {shares}."]


def _numbers(rows: Rows) -> list[str]:
    """Say by optimizer what each mask learned and forgot."""
    said = []
    for optimizer in dict.fromkeys(row["optimizer"] for row in rows):
        parts = []
        for row in rows:
            if row["optimizer"] != optimizer:
                continue
            late = "" if row["reached"] else ", target missed"
            parts.append(
                f"{_TITLES[row['mask']]} (rate {row['rate']:g}) learned {row['learned']} of {row['learned_of']} in "
                f"{row['updates']} updates{late}, forgot {row['forgotten_held_out']} of {row['forgotten_held_out_of']} "
                "of M test"
            )
        said.append(f"{optimizer}: {'; '.join(parts)}.")
    return said


def _differences(rows: Rows, paired: Mapping[tuple[str, str], TwoByTwo]) -> list[str]:
    """Say against plain fine-tuning and against the gradient mask where a difference in forgetting is shown."""
    reached = {(row["optimizer"], row["mask"]): row["reached"] for row in rows}
    said = []
    for other in ("none", "gradient"):
        found: dict[str, list[str]] = {"fewer": [], "more": [], "open": [], "uneven": []}
        for (optimizer, mask), table in paired.items():
            if mask != other:
                continue
            text = f"{optimizer} ({table.first.count} against {table.second.count}, p {table.p_value:.2g})"
            found[_kind(table, even=reached[optimizer, "update"] and reached[optimizer, mask])].append(text)
        claims = {
            "fewer": "forgets fewer items of M test with",
            "more": "forgets more with",
            "open": "is not shown to differ with",
            "uneven": "learned not equally much (a target was missed), so that forgetting says little, with",
        }
        told = "; ".join(f"{claim} {_listed(found[kind])}" for kind, claim in claims.items() if found[kind])
        if told:
            rival = "the mask on the gradient" if other == "gradient" else _TITLES[other]
            said.append(f"Against {rival} (exact McNemar) the mask on the update {told}.")
    return said


def _kind(table: TwoByTwo, *, even: bool) -> str:
    if not even:
        return "uneven"
    if table.p_value >= SIGNIFICANT:
        return "open"
    return "fewer" if table.only_first < table.only_second else "more"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
