"""Study `stability`: is the class of a parameter a property of the parameter, or of the moment?"""

from cpl_ray.studies.findings import Findings
from pipelines.studies.bench import PROBED, Bench, Draw, Study


def _conduct(bench: Bench) -> Findings:
    from cpl_ray.studies.findings import read_table
    from cpl_ray.studies.stability import analyse

    settings = bench.config.study
    run = bench.trained("probed", {"train.rule": "cpl"}, probe={"name": "stability"})
    files = {name: run.root / PROBED / f"{name}.parquet" for name in ("steps", "windows", "epochs")}
    tables = {name: read_table(path) for name, path in files.items() if path.exists()}
    return analyse(tables, flapping=settings.flapping, stagnation=settings.stagnation)


def _draw() -> Draw:
    from cpl_ray.figures_stability import draw_stability

    return draw_stability


STABILITY = Study("stability", "do parameters keep their class?", _conduct, _draw)
