"""What overlaps of classes and trainings on a fixed mask say about the paper's weakest assumption."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from scipy.stats import spearmanr

from cpl_ray.measures import Rate, TwoByTwo
from cpl_ray.studies.findings import Findings, Number, percent

MODERATE = 0.4
"""Kappa from which agreement is called more than slight to fair (Landis and Koch, Biometrics 33, 1977)."""
Rows = list[dict[str, Any]]


def rank_correlation(first: Mapping[str, float], second: Mapping[str, float]) -> float | None:
    """Return Spearman's correlation of two models' shares over the types they both have; None below three types."""
    types = [name for name in first if name in second and name != "all"]
    if len(types) < 3:
        return None
    value = float(spearmanr([first[name] for name in types], [second[name] for name in types]).statistic)
    return value if value == value else None


def analyse(
    overlap: Rows, types: Rows, training: Rows, paired: Mapping[str, TwoByTwo], correlations: Mapping[str, float | None]
) -> Findings:
    """Return headline, verdict and tables.

    Args:
        overlap: `comparison`, `type`, and what `Overlap.to_dict` gives.
        types: `model`, `type`, `conflict_share`.
        training: `mask` (`fresh`, `fixed`, `shuffled`), `learned`, `learned_of`, `forgotten`, `forgotten_of` (M test).
        paired: the same items of M test forgotten, by `fixed` and `shuffled`: first = that mask, second = fresh masks.
        correlations: of the shares by type with those of `model`, by further model.
    """
    whole = {row["comparison"]: row for row in overlap if row["type"] == "all"}
    headline: dict[str, Number] = {}
    for name, row in whole.items():
        key = name.replace(" ", "_").replace(":", "")
        headline |= {f"agreement_{key}": row["agreement"], f"kappa_{key}": row["kappa"]}
    for row in training:
        learned, forgotten = Rate(row["learned"], row["learned_of"]), Rate(row["forgotten"], row["forgotten_of"])
        headline |= {f"learned_{row['mask']}": learned.share, f"forgotten_{row['mask']}": forgotten.share}
    headline |= {f"mcnemar_{name}": table.p_value for name, table in paired.items()}
    headline |= {
        f"rank_correlation_{name.rstrip('/').rpartition('/')[2]}": value for name, value in correlations.items()
    }
    sentences = [_overlaps(whole), _masks(training, paired), *_models(correlations)]
    tables = {"overlap": pa.Table.from_pylist(overlap), "types": pa.Table.from_pylist(types)}
    return Findings(" ".join(sentences), headline, {**tables, "training": pa.Table.from_pylist(training)})


def _overlaps(whole: Mapping[str, Mapping[str, Any]]) -> str:
    listed = "; ".join(
        f"{name} {percent(row['agreement'])} (kappa {row['kappa']:.2f}, Jaccard {row['jaccard']:.2f})"
        for name, row in whole.items()
    )
    stable = [name for name, row in whole.items() if row["kappa"] >= MODERATE]
    verdict = (
        "no comparison agrees more than fairly beyond chance: the class does not carry over"
        if not stable
        else f"beyond chance (kappa from {MODERATE}) the class carries over for: {', '.join(stable)}"
        + ("" if len(stable) == len(whole) else ", and for the others it does not")
    )
    return f"Parameters of the same class in two maps: {listed}. By this {verdict}."


def _masks(training: Sequence[Mapping[str, Any]], paired: Mapping[str, TwoByTwo]) -> str:
    kinds = {"fresh": "fresh masks", "fixed": "the mask of an earlier run", "shuffled": "that mask shuffled"}
    listed = "; ".join(
        f"{kinds[row['mask']]}: learned {row['learned']} of {row['learned_of']}, "
        f"forgotten of M test {row['forgotten']} of {row['forgotten_of']}"
        for row in training
    )
    by = {row["mask"]: row["forgotten"] for row in training}
    worse = by["fixed"] - by["fresh"]
    p = paired["fixed"].p_value
    meaning = (
        f"the earlier mask forgets {abs(worse)} {'more' if worse > 0 else 'fewer'} than fresh masks (McNemar p {p:.2g})"
        if worse
        else "the earlier mask forgets as many as fresh masks"
    )
    return (
        f"Trained with {listed}. So {meaning}; against its own shuffling it forgets {by['fixed']} to {by['shuffled']}."
    )


def _models(correlations: Mapping[str, float | None]) -> list[str]:
    return [
        f"The shares by type of {name} and of the model itself have a rank correlation of "
        f"{'none that can be told' if value is None else f'{value:.2f}'}."
        for name, value in correlations.items()
    ]
