"""Study `optimizers`: does the rule hold with SGD, momentum, Adam and AdamW, and with the mask on the gradient?"""

from typing import TYPE_CHECKING, Any

from cpl_ray.config import Config
from cpl_ray.errors import DataError, NonFiniteError
from cpl_ray.rundir import RunDir, read_json
from cpl_ray.studies.findings import Findings
from pipelines.studies.bench import Bench, Draw, Study

if TYPE_CHECKING:  # the command line must answer at once
    from cpl_ray.compare_choice import Measured


def _check(config: Config) -> None:
    from cpl_ray.contenders import check_choice

    check_choice(config)


def _conduct(bench: Bench) -> Findings:
    from cpl_ray.assessment import in_denominator, read_assessment
    from cpl_ray.compare_choice import best_at_target
    from cpl_ray.ledger import forgotten_held_out, read_ledger
    from cpl_ray.measures import two_by_two
    from cpl_ray.studies.optimizers import MASKS, analyse, row_of

    validation = read_assessment(bench.run.assessment).parts["mastered_validation"]
    if not any(in_denominator("mastered_validation", row.before) for row in validation):
        raise DataError("M validation has no mastered item, and rates are chosen by it; assess more items")
    rows: list[dict[str, Any]] = []
    tried: list[dict[str, Any]] = []
    flips: dict[tuple[str, str], dict[str, bool]] = {}
    for optimizer in bench.config.study.optimizer_rates:
        for mask in MASKS:
            runs = _tries(bench, optimizer, mask)
            best, why = best_at_target([one for one, _ in runs])
            bench.say(f"{optimizer}, {mask}: {'no rate' if best is None else f'rate {best.rate:g}'}, as {why}")
            for one, run in runs:
                row = row_of(optimizer, mask, one)
                tried.append({**row, "chosen": one is best})
                if one is best:
                    rows.append(row)
                    flips[optimizer, mask] = forgotten_held_out(read_ledger(run.flips))
    if not rows:
        raise DataError("no rate of study.optimizer_rates could be trained with; give smaller ones")
    paired = {
        (optimizer, mask): two_by_two(flips[optimizer, "update"], forgotten)
        for (optimizer, mask), forgotten in flips.items()
        if mask != "update" and (optimizer, "update") in flips
    }
    return analyse(rows, tried, paired)


def _tries(bench: Bench, optimizer: str, mask: str) -> "list[tuple[Measured, RunDir]]":
    """Train with each rate of an optimizer; a rate at which losses stop being numbers is passed over."""
    from cpl_ray.compare_choice import Measured
    from cpl_ray.contenders import RATE
    from cpl_ray.studies.optimizers import settings_of
    from cpl_ray.trials import Trial

    config, tries = bench.config, []
    for index, rate in enumerate(config.study.optimizer_rates[optimizer]):
        changes = settings_of(optimizer, mask, rate, config.optimizer.weight_decay)
        try:
            run = bench.trained(f"{optimizer}-{mask}-{rate:g}", changes, evaluated=True, keep_model=False)
        except NonFiniteError as error:
            bench.say(f"{optimizer} at {rate:g} is passed over: {error}")
            continue
        result = read_json(run.result)
        tries.append((Measured(Trial(index, 0, {RATE: rate}, config.train.seed).measured(result), result), run))
    return tries


def _draw() -> Draw:
    from cpl_ray.figures_optimizers import draw_optimizers

    return draw_optimizers


OPTIMIZERS = Study("optimizers", "does the rule hold with four optimizers?", _conduct, _draw, _check)
