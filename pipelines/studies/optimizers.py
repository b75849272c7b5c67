"""Study `optimizers`: does the rule hold with SGD, momentum, Adam and AdamW, and with the mask on the gradient?"""

from cpl_ray.config import Config
from cpl_ray.errors import DataError, NonFiniteError
from cpl_ray.rundir import read_json
from cpl_ray.studies.findings import Findings
from pipelines.studies.bench import Bench, Draw, Study


def _check(config: Config) -> None:
    from cpl_ray.contenders import check_choice

    check_choice(config)


def _conduct(bench: Bench) -> Findings:
    from cpl_ray.assessment import in_denominator, read_assessment
    from cpl_ray.compare_choice import Measured, best_at_target
    from cpl_ray.contenders import RATE
    from cpl_ray.ledger import forgotten_held_out, read_ledger
    from cpl_ray.measures import two_by_two
    from cpl_ray.studies.optimizers import MASKS, analyse, row_of, settings_of
    from cpl_ray.trials import Trial

    validation = read_assessment(bench.run.assessment).parts["mastered_validation"]
    if not any(in_denominator("mastered_validation", row.before) for row in validation):
        raise DataError("M validation has no mastered item, and rates are chosen by it; assess more items")
    config, flips = bench.config, {}
    rows, tried = [], []
    for optimizer, rates in config.study.optimizer_rates.items():
        for mask in MASKS:
            tries = []
            for rate in rates:
                changes = settings_of(optimizer, mask, rate, config.optimizer.weight_decay)
                try:
                    run = bench.trained(f"{optimizer}-{mask}-{rate:g}", changes, evaluated=True, keep_model=False)
                except NonFiniteError as error:
                    bench.say(f"{optimizer} at {rate:g} is passed over: {error}")
                    continue
                result = read_json(run.result)
                trial = Trial(len(tried) + len(tries), 0, {RATE: rate}, config.train.seed).measured(result)
                tries.append((Measured(trial, result), run))
            best, why = best_at_target([one for one, _ in tries])
            bench.say(f"{optimizer}, {mask}: {'no rate' if best is None else f'rate {best.rate:g}'}, as {why}")
            tried += [{**row_of(optimizer, mask, one), "chosen": one is best} for one, _ in tries]
            if best is not None:
                rows.append(row_of(optimizer, mask, best))
                chosen = next(run for one, run in tries if one is best)
                flips[optimizer, mask] = forgotten_held_out(read_ledger(chosen.flips))
    if not rows:
        raise DataError("no rate of study.optimizer_rates could be trained with; give smaller ones")

    paired = {
        (optimizer, mask): two_by_two(flips[optimizer, "update"], forgotten)
        for (optimizer, mask), forgotten in flips.items()
        if mask != "update" and (optimizer, "update") in flips
    }
    return analyse(rows, tried, paired)


def _draw() -> Draw:
    from cpl_ray.figures_optimizers import draw_optimizers

    return draw_optimizers


OPTIMIZERS = Study("optimizers", "does the rule hold with four optimizers?", _conduct, _draw, _check)
