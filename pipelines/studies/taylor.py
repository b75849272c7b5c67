"""Study `taylor`: up to which learning rate does first order tell what a step does to the mastered loss?"""

from cpl_ray.studies.findings import Findings
from pipelines.studies.bench import PROBED, Bench, Draw, Study


def _conduct(bench: Bench) -> Findings:
    from cpl_ray.studies.findings import read_table
    from cpl_ray.studies.taylor import FACTORS, analyse

    lr = bench.config.optimizer.lr
    rates = sorted(bench.config.study.rates) or [factor * lr for factor in FACTORS]
    run = bench.trained("probed", {"train.rule": "cpl"}, probe={"name": "taylor", "rates": rates})
    return analyse({"steps": read_table(run.root / PROBED / "steps.parquet")}, lr)


def _draw() -> Draw:
    from cpl_ray.figures_taylor import draw_taylor

    return draw_taylor


TAYLOR = Study("taylor", "up to which rate does first order hold?", _conduct, _draw)
