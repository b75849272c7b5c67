"""The reference algorithm's schedule against ours, to the same learned target.

`python -m benchmarks.reference_schedule RUN`, the folder of a finished run (`make demo` leaves some). Three trainings
of its base model on its parts, one thread, seconds of CPU spent training (evaluations are outside the clock):

    plain      the reference's schedule as plain torch: batch 1, the whole of M train once an epoch, eager loops
    paper      the same mathematics by our loop and engine: settings of `configs/paper/`, the optimizer of the race
    scalable   RUN's own settings (large batches, a mastered batch every k updates), and variants of them

First the rate of the reference's schedule is chosen on M validation; then plain and paper make epochs in turn; then all
train to the target, in turn.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.__main__ import processor
from benchmarks.measure import Timing, compare
from benchmarks.racers import Ours, Plain, Race, Racer
from cpl_ray.calibration import one_process
from cpl_ray.environment import snapshot
from cpl_ray.rundir import atomic_write_text
from pipelines.tables import print_table

SCALABLE = "train.micro_batch_size=33 train.refresh=4 optimizer.lr=5e-4"
HOPELESS = 4  # times the budget: a rate that has forgotten this much does not come back


def tried_rates(race: Race, rates: Sequence[float], target: float, epochs: int) -> list[dict[str, Any]]:
    """Train the reference's schedule at every rate (by our loop: the same mathematics, sooner), the best one first.

    Best is, inside the forgetting budget on M validation, who arrives in the fewest epochs; where nobody arrives, who
    learned most. A rate is given up when another has arrived sooner, or when it forgot HOPELESS times the budget.
    """
    found: list[dict[str, Any]] = []
    limit = epochs
    for lr in rates:
        racer = race.paper(lr)
        watched = racer.world.counter("mastered_validation")
        forgotten = 0.0
        while not racer.arrived(target) and racer.trainer.epochs < limit and forgotten <= HOPELESS * race.budget:
            racer.advance()
            counts = watched.run(racer.trainer.module)
            forgotten = counts["forgotten_validation"] / counts["forgotten_validation_of"]
        arrived, inside = racer.arrived(target), forgotten <= race.budget
        found.append({"lr": lr, "arrived": arrived, "inside_budget": inside, **racer.result()})
        if arrived and inside:
            limit = min(limit, int(racer.trainer.epochs))
    return sorted(found, key=_rank)


def _rank(one: dict[str, Any]) -> tuple[bool, bool, float]:
    return not one["inside_budget"], not one["arrived"], one["epochs"] if one["arrived"] else -one["learned"]


def alternate(race: Race, lr: float, rounds: int) -> tuple[list[Timing], list[dict[str, float]]]:
    """Make epochs of plain and paper in turn; return seconds per epoch, and after the first and the last the distance.

    The first epoch, which makes buffers and state, is not timed.
    """
    plain, paper, single = race.plain(lr), race.paper(lr), race.paper(lr, "train.mastered_micro_batch_size=1")
    start = [param.detach().clone() for param in plain.world.model.parameters()]
    alternatives = {racer.name: racer.trainer.advance for racer in (plain, paper, single)}
    for advance in alternatives.values():
        advance()
    apart = [distance(plain.trainer, paper.trainer, start)]
    timings = compare(alternatives, rounds=rounds, warmup=0, clock=time.process_time)
    return timings, [*apart, distance(plain.trainer, paper.trainer, start)]


@torch.no_grad()
def distance(plain: Plain | Ours, paper: Plain | Ours, start: Sequence[Tensor]) -> dict[str, float]:
    """Return how far parameters are apart.

    `relative` is the largest over tensors of max |a - b| / max |a|; `of_the_way` the norm of all a - b over that of the
    way from the start.
    """
    relative, apart, way = 0.0, 0.0, 0.0
    for ours, theirs, before in zip(plain.module.parameters(), paper.module.parameters(), start, strict=True):
        relative = max(relative, float((ours - theirs).abs().max() / ours.abs().max()))
        apart += float((ours - theirs).double().square().sum())
        way += float((ours - before).double().square().sum())
    return {"epochs": plain.epochs, "relative": relative, "of_the_way": (apart / way) ** 0.5}


def to_the_target(racers: Sequence[Racer], target: float, epochs: int, own_epochs: int) -> list[dict[str, Any]]:
    """Let all train in turn, from evaluation to evaluation, until each has arrived or spent its epochs."""
    limits = {id(racer): own_epochs if racer.name.startswith("scalable") else epochs for racer in racers}
    while left := [racer for racer in racers if not racer.arrived(target) and racer.trainer.epochs < limits[id(racer)]]:
        for racer in left:
            racer.advance()
    return [{**racer.result(), "arrived": racer.arrived(target)} for racer in racers]


def rows_of(results: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return table rows; the ratio is to the first."""
    reference = results[0]["seconds"]

    def count(one: dict[str, Any], name: str) -> str:
        return f"{one[name]:.0f} of {one[f'{name}_of']:.0f}"

    counts = ("learned", "forgotten_held_out", "forgotten_validation", "forgotten_in_set")
    return [
        (
            one["name"],
            f"{one['epochs']:.0f}",
            str(one["updates"]),
            f"{one['seconds']:.1f}",
            f"{reference / one['seconds']:.2f}",
            *(count(one, name) for name in counts),
        )
        for one in results
    ]


def main() -> None:
    """Choose the reference's rate, time equal epochs, and train to the target."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reference_schedule", description=main.__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--lr", type=float, help="of the reference's schedule; none: the best of --rates")
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-4, 5e-5, 3e-5])
    parser.add_argument("--optimizer", choices=("adamw", "adam", "sgd"), default="adamw", help="of plain and paper")
    parser.add_argument("--target", type=float, help="share learned; none: the run's own")
    parser.add_argument("--epochs", type=int, default=25, help="at most, of the reference's schedule")
    parser.add_argument("--rounds", type=int, default=5, help="epochs of plain and paper in turn")
    parser.add_argument("--scalable", nargs="+", default=["", SCALABLE], help="'KEY=VALUE KEY=VALUE', '': as the run")
    parser.add_argument("--compile", choices=("auto", "always", "never"), default="always", help="optimizer.compile")
    parser.add_argument("--out", type=Path, default=Path("benchmarks", "results", "reference_schedule.json"))
    options = parser.parse_args()
    with one_process(1), tempfile.TemporaryDirectory() as folder:
        race = Race(options.run, options.compile, options.optimizer, Path(folder))
        target = options.target or race.own.train.stop_at_learned or 0.95
        columns = ("", "epochs", "updates", "CPU s", "x less", "learned", "held-out", "validation", "in-set forgotten")
        tried = [] if options.lr else tried_rates(race, options.rates, target, options.epochs)
        for one in tried:
            one["name"] = f"paper preset, {one['lr']:g}" + ("" if one["arrived"] else ", did not arrive")
        if tried:
            print(f"rates tried by the reference's schedule ({options.optimizer}), to {target:.0%} learned, best first")
            print_table(columns, rows_of(tried), numbers=True)
        lr = options.lr or tried[0]["lr"]
        timings, apart = alternate(race, lr, options.rounds)
        print(f"epochs in turn at {lr:g}, CPU seconds per epoch")
        cells = [(t.name, f"{t.median_s:.2f}", f"{t.low_s:.2f} - {t.high_s:.2f}", f"{t.ratio:.2f}") for t in timings]
        print_table(("", "median", "10 % - 90 %", "ratio"), cells, numbers=True)
        for one in apart:
            way = f"{one['of_the_way']:.1e} of the way from the start"
            print(f"after epoch {one['epochs']:.0f} plain and paper differ by {one['relative']:.1e} of a tensor, {way}")
        racers = [race.plain(lr), race.paper(lr), *(race.scalable(variant) for variant in options.scalable)]
        results = to_the_target(racers, target, options.epochs, race.own.train.epochs)
        print(f"to {target:.0%} learned, the reference's schedule at {lr:g}; seconds of training alone")
        print_table(columns, rows_of(results), numbers=True)
    environment = snapshot()
    record = {"name": "reference_schedule", "date": datetime.now().isoformat(timespec="seconds"), "lr": lr}
    record |= {"target": target, "optimizer": options.optimizer, "compile": options.compile, "tried": tried}
    record |= {"epochs_in_turn": [one.to_dict() for one in timings], "apart": apart, "results": results}
    atomic_write_text(options.out, json.dumps(record | {"environment": environment}, indent=1) + "\n")
    machine = f"{environment['machine']}, {processor()}, {environment['num_cpus']} CPUs, one thread"
    print(f"{record['date']}, torch {environment['versions']['torch']}, {machine}; raw numbers: {options.out}")


if __name__ == "__main__":
    main()
