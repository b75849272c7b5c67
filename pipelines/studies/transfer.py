"""Study `transfer`: are the classes the same for other seeds, tasks, rounds and models, and does an old mask do?"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from cpl_ray.errors import DataError
from cpl_ray.rundir import RunDir, read_json
from cpl_ray.studies.findings import Findings
from pipelines.studies.bench import PROBED, Bench, Draw, Study

PROBE = {"name": "classes"}


def _conduct(bench: Bench) -> Findings:
    from cpl_ray.ledger import read_ledger
    from cpl_ray.masks import conflict_shares, load_masks, overlaps
    from cpl_ray.measures import two_by_two
    from cpl_ray.studies.transfer import analyse, rank_correlation

    config = bench.config
    first, second = (config.study.seeds or [config.train.seed, config.train.seed + 1])[:2]
    cpl = {"train.rule": "cpl"}
    one = bench.trained("seed-a", {**cpl, "train.seed": first}, probe=PROBE)
    other = bench.trained("seed-b", {**cpl, "train.seed": second}, probe=PROBE, evaluated=True)
    halves = [
        bench.trained(f"half-{name}", {**cpl, "train.seed": first, "data.assessment": str(folder)}, probe=PROBE)
        for name, folder in zip("ab", _halves(bench), strict=True)
    ]
    compared = {
        "seeds: first update": (_moments(one)[0], _moments(other)[0]),
        "seeds: last update": (_moments(one)[-1], _moments(other)[-1]),
        "tasks: first update": (_moments(halves[0])[0], _moments(halves[1])[0]),
        "tasks: last update": (_moments(halves[0])[-1], _moments(halves[1])[-1]),
        "rounds: first to middle": (_moments(one)[0], _moments(one)[len(_moments(one)) // 2]),
        "rounds: first to last": (_moments(one)[0], _moments(one)[-1]),
    }
    overlap = [
        {"comparison": name, "type": kind, **found.to_dict()}
        for name, (a, b) in compared.items()
        for kind, found in overlaps(load_masks(a), load_masks(b)).items()
    ]
    mask = {"name": "fixed_mask", "mask": str(_moments(one)[-1])}
    plain = {"train.rule": "none", "train.seed": second}
    masked = {
        "fresh": other,
        "fixed": bench.trained("fixed", plain, probe=mask, evaluated=True),
        "shuffled": bench.trained("shuffled", plain, probe={**mask, "shuffle": True}, evaluated=True),
    }
    forgotten = {
        name: {
            row["id"]: row["flip"] == "forgotten"
            for row in read_ledger(run.flips).select(["id", "part", "flip"]).to_pylist()
            if row["part"] == "mastered_test" and row["flip"] is not None
        }
        for name, run in masked.items()
    }
    paired = {name: two_by_two(forgotten[name], forgotten["fresh"]) for name in ("fixed", "shuffled")}
    shares = {config.model: conflict_shares(load_masks(_moments(one)[-1]))}
    for index, model in enumerate(config.study.models):
        run = bench.trained(f"model-{index}", {**cpl, "model": model, "train.seed": first}, probe=PROBE, assessed=True)
        shares[model] = conflict_shares(load_masks(_moments(run)[-1]))
    types = [
        {"model": model, "type": kind, "conflict_share": share}
        for model, own in shares.items()
        for kind, share in own.items()
    ]
    correlations = {model: rank_correlation(shares[config.model], shares[model]) for model in config.study.models}
    return analyse(overlap, types, [_row(name, run) for name, run in masked.items()], paired, correlations)


def _moments(run: RunDir) -> list[Path]:
    """Return the masks of a run in order of update."""
    return sorted((run.root / PROBED).glob("step_*.safetensors"))


def _row(mask: str, run: RunDir) -> dict[str, Any]:
    result = read_json(run.result)
    learned, forgotten = result["learned"], result["forgotten"]["held_out"]
    counts = {"learned": learned["count"], "learned_of": learned["of"]}
    return {"mask": mask, **counts, "forgotten": forgotten["count"], "forgotten_of": forgotten["of"]}


def _halves(bench: Bench) -> list[Path]:
    """Write two assessments, each with every other item of injection train.

    Raises:
        DataError: there is only one such item.
    """
    from cpl_ray.assessment import read_assessment, write_assessment

    whole = read_assessment(bench.run.assessment)
    rows = whole.parts["injection_train"]
    if len(rows) < 2:
        raise DataError("the injection set has one item; it cannot be cut into two tasks")
    folders = []
    for index in range(2):
        folder = bench.run.root / "halves" / str(index) / "assessment"
        half = replace(whole, parts={**whole.parts, "injection_train": rows[index::2]})
        write_assessment(folder, half.parts, half.manifest)
        folders.append(folder.parent)
    return folders


def _draw() -> Draw:
    from cpl_ray.figures_transfer import draw_transfer

    return draw_transfer


TRANSFER = Study("transfer", "do classes carry over to other seeds, tasks, rounds?", _conduct, _draw)
