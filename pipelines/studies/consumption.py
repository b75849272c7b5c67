"""Study `consumption`: does the collaborative share shrink from round to round, and what does a round cost?"""

from typing import Any

from cpl_ray.rundir import read_json
from cpl_ray.studies.findings import Findings
from pipelines.studies.bench import Bench, Draw, Study
from pipelines.studies.rounds import Plan, Round, rounds


def _conduct(bench: Bench) -> Findings:
    from cpl_ray.metrics_log import read_records
    from cpl_ray.studies.consumption import SHARES, TARGET, analyse

    plan = Plan.of(bench)
    target = bench.config.train.stop_at_learned or TARGET
    table: list[dict[str, Any]] = []
    updates: list[dict[str, Any]] = []
    for one in rounds(bench, plan, "cpl", {"train.rule": "cpl"}):
        table.append(_row(plan, one, target))
        updates += [
            {"round": one.number, "step": record.step, **{name: record.values[name] for name in SHARES}}
            for record in read_records(one.run.metrics, "train")
        ]
    return analyse(table, updates, target=target, keep_learned=bench.config.study.keep_learned)


def _row(plan: Plan, one: Round, target: float) -> dict[str, Any]:
    """Return what a round cost and left, measured against the base model's answers."""
    from cpl_ray.metrics_log import curve, read_records
    from cpl_ray.studies.consumption import updates_to_learn
    from cpl_ray.studies.rounds import INJECTION, answered, counts

    right = {
        row["part"]: (row["right"], row["of"])
        for row in counts(answered(plan.whole, plan.parts, one.answers, method="cpl", after=one.number))
    }
    own = right[f"{INJECTION}{one.number}"]
    earlier = [right[f"{INJECTION}{number}"] for number in range(1, one.number)]
    kept, of = right.get("mastered_test", (0, 0))
    result = read_json(one.run.result)
    evaluations = curve(read_records(one.run.metrics, "eval"), "learned", "learned_of")
    return {
        "round": one.number,
        "injected": len(plan.parts[one.number - 1]),
        "mastered": result["mastered_size"],
        "updates": result["steps"],
        "train_s": result["train_s"],
        "updates_to_learn": updates_to_learn(evaluations, target),
        "learned": own[0],
        "learned_of": own[1],
        "forgotten": of - kept,
        "forgotten_of": of,
        "survived": sum(count for count, _ in earlier),
        "survived_of": sum(total for _, total in earlier),
    }


def _draw() -> Draw:
    from cpl_ray.figures_consumption import draw_consumption

    return draw_consumption


CONSUMPTION = Study("consumption", "does the collaborative share shrink in rounds?", _conduct, _draw)
