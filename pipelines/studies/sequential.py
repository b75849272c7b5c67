"""Study `sequential`: what of each part survives the injection of the parts after it, and what of M test?"""

from cpl_ray.studies.findings import Findings
from pipelines.studies.bench import Bench, Draw, Study
from pipelines.studies.rounds import Plan, rounds

_METHODS = {"cpl": {"train.rule": "cpl"}, "fine_tuning": {"train.rule": "none"}}


def _conduct(bench: Bench) -> Findings:
    from cpl_ray.studies.rounds import answered
    from cpl_ray.studies.sequential import analyse

    plan = Plan.of(bench)
    items = []
    for method, changes in _METHODS.items():
        items += answered(plan.whole, plan.parts, plan.base, method=method, after=0)
        for one in rounds(bench, plan, method, changes):
            items += answered(plan.whole, plan.parts, one.answers, method=method, after=one.number)
    config = bench.config
    return analyse(items, lr=config.optimizer.lr, keep_learned=config.study.keep_learned)


def _draw() -> Draw:
    from cpl_ray.figures_sequential import draw_sequential

    return draw_sequential


SEQUENTIAL = Study("sequential", "does what is injected survive later injections?", _conduct, _draw)
