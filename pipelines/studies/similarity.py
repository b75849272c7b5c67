"""Study `similarity`: do the two sets' gradients conflict, where, and does an item's conflict predict its loss?"""

from cpl_ray.studies.findings import Findings
from pipelines.studies.bench import PROBED, Bench, Draw, Study


def _conduct(bench: Bench) -> Findings:
    from cpl_ray.ledger import read_ledger
    from cpl_ray.studies.findings import read_table
    from cpl_ray.studies.similarity import analyse, with_fate

    probe = {"name": "similarity", "items": bench.config.study.items}
    run = bench.trained("plain", {"train.rule": "none"}, probe=probe, evaluated=True)
    tables = {
        name: read_table(run.root / PROBED / f"{name}.parquet")
        for name in ("course", "parameters", "histogram", "items")
    }
    tables["items"] = with_fate(tables["items"], read_ledger(run.flips))
    return analyse(tables, bench.config.optimizer.name)


def _draw() -> Draw:
    from cpl_ray.figures_similarity import draw_similarity

    return draw_similarity


SIMILARITY = Study(
    "similarity",
    "do the two gradients conflict, where, and does it foretell?",
    _conduct,
    _draw,
)
