"""Study `mastered-size`: how small may the mastered set be, and do fresh small batches beat stale large ones?"""

from cpl_ray.config import Config
from cpl_ray.errors import ConfigError, DataError
from cpl_ray.rundir import read_json
from cpl_ray.studies.findings import Findings
from pipelines.studies.bench import Bench, Draw, Study


def _check(config: Config) -> None:
    from cpl_ray.contenders import check_validation

    check_validation(config, "the smallest mastered set is judged")


def _conduct(bench: Bench) -> Findings:
    from cpl_ray.assessment import in_denominator, read_assessment
    from cpl_ray.ledger import forgotten_held_out, read_ledger
    from cpl_ray.order import ItemOrder
    from cpl_ray.studies.mastered_size import analyse, grid, row_of, sizes_of

    config, study = bench.config, bench.config.study
    parts = read_assessment(bench.run.assessment).parts
    num_train = len(parts["mastered_train"])
    if not any(in_denominator("mastered_validation", row.before) for row in parts["mastered_validation"]):
        raise DataError("M validation has no mastered item, and the smallest mastered set is judged by it")
    if too_many := [size for size in study.mastered_sizes if size > num_train]:
        raise ConfigError(f"study.mastered_sizes: {max(too_many)} is more than M train has ({num_train} items)")
    order = ItemOrder(len(parts["injection_train"]), config.train.seed)
    steps_per_epoch = order.steps_per_epoch(config.global_batch_size)
    rows, forgotten = [], {}
    for point in grid(sizes_of(study.mastered_sizes, num_train), study.mastered_batch_sizes, study.refreshes):
        run = bench.trained(point.name, point.changes(), evaluated=True, keep_model=False)
        rows.append(row_of(point, read_json(run.result), steps_per_epoch))
        forgotten[point.name] = forgotten_held_out(read_ledger(run.flips))
    return analyse(rows, forgotten, budget=config.budget.max_forgetting, target=config.train.stop_at_learned)


def _draw() -> Draw:
    from cpl_ray.figures_mastered_size import draw_mastered_size

    return draw_mastered_size


MASTERED_SIZE = Study("mastered-size", "how small may M be, how seldom seen?", _conduct, _draw, _check)
