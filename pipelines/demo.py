"""`make demo`: teach a small model real facts twice, by plain fine-tuning and by CPL, and compare what it forgot.

Everything goes through the real stages (Ray Data, two Ray Train workers, ZeRO 2, the MLflow registry). Fine-tuning gets
its best of three rates, chosen on the validation part; both stop at the same share learned.
"""

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from cpl_ray.config import Config
from cpl_ray.errors import UserError
from cpl_ray.loading import load_config
from cpl_ray.lock import release
from cpl_ray.rundir import RunDir
from pipelines.base_model import make_base_model
from pipelines.session import ray_session
from pipelines.tables import print_table

ROOT = Path(__file__).resolve().parent.parent
FACTS = ROOT / "examples" / "facts" / "facts.jsonl"
CONFIG = ROOT / "configs" / "demo.yaml"
RATES = (5e-5, 1e-4, 2e-4)
COLUMNS = ("method", "rate", "learned", "forgotten held-out", "in-set", "updates", "seconds", "gate")


def main(arguments: list[str] | None = None) -> int:
    """Run the demo for each seed and print one table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.demo", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of base model, split and training")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    options = parser.parse_args(arguments)
    try:
        rows = [row for seed in options.seeds for row in compare(seed, options.runs.absolute())]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print_table(("seed", *COLUMNS), rows)
    print(f"runs, models and MLflow database: {options.runs}; forgotten: of the mastered questions of that part")
    return 0


def compare(seed: int, runs: Path) -> list[tuple[str, ...]]:
    """Make the base model of a seed, run CPL and fine-tuning on it, and return the table's two rows."""
    suffix = "" if seed == 0 else f"-seed{seed}"
    base = runs / f"demo-base{suffix}"
    started = time.time()
    made = make_base_model(FACTS, base, seed=seed)
    say(
        f"base model: {made.num_parameters / 1e6:.2f} M parameters, answers {made.known_answered} of {made.num_known} "
        f"facts it was taught and {made.other_answered} of {made.num_other} others ({time.time() - started:.0f} s)"
    )

    def configured(name: str, *more: str) -> Config:
        place = [f"run.dir={runs}", f"run.name={name}{suffix}", "run.overwrite=true"]
        seeds = [f"split.seed={seed}", f"train.seed={seed}"]
        return load_config(CONFIG, [f"model={base}", f"data.items={FACTS}", *place, *seeds, *more])

    with ray_session(configured("demo-cpl"), say):
        say("== CPL: the whole pipeline")
        cpl = pipeline(configured("demo-cpl"))
        known = f"data.assessment={runs / f'demo-cpl{suffix}'}"
        say(f"== plain fine-tuning at {', '.join(f'{rate:g}' for rate in RATES)}, to choose its rate on validation")
        trained = {
            rate: training(configured(f"demo-rate-{rate:g}", known, "train.rule=none", f"optimizer.lr={rate}"))
            for rate in RATES
        }
        best = best_rate(trained)
        say(f"== plain fine-tuning at its best rate {best:g}: the rest of the pipeline on what was trained")
        plain = pipeline(
            taken_over(
                f"demo-rate-{best:g}{suffix}",
                configured("demo-finetune", known, "train.rule=none", f"optimizer.lr={best}"),
            )
        )
    rate = configured("demo-cpl").optimizer.lr
    return [row(seed, "fine-tuning", best, plain), row(seed, "CPL", rate, cpl)]


def pipeline(config: Config) -> dict[str, Any]:
    """Run all stages, then let the gate judge the registered model."""
    from pipelines.stages import promote, run

    folder = RunDir.create(config)
    named = folder.named(config)
    run(named, folder, say)
    result = promote(named, folder, say)
    gate = result["gate"]
    verdict = "admitted, alias champion" if gate["admitted"] else f"refused: {'; '.join(gate['reasons'])}"
    say(f"gate: {folder.name} {verdict}")
    return result


def training(config: Config) -> dict[str, float]:
    """Train only, and return the last evaluation during training."""
    from pipelines.stages import train

    folder = RunDir.create(config)
    return train(folder.named(config), folder, say)["training"]["last_evaluation"]


def taken_over(name: str, config: Config) -> Config:
    """Put assessment and training of the run `name` into the folder of an equal run, which goes on from there."""
    folder = RunDir.create(config)
    release(folder.root)
    for part in ("assessment", "train", "model", "manifest.json", "metrics.jsonl"):
        source = folder.root.parent / name / part
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        copy(source, folder.root / part)
    return config.model_copy(update={"run": config.run.model_copy(update={"overwrite": False, "resume": True})})


def best_rate(trained: dict[float, dict[str, float]]) -> float:
    """Return the rate that learned most, up to the target, and among equals forgot least of M validation."""
    target = load_config(CONFIG).train.stop_at_learned or 1.0

    def merit(rate: float) -> tuple[float, float]:
        last = trained[rate]
        return min(target, last["learned"] / last["learned_of"]), -last["forgotten_validation"]

    return max(trained, key=merit)


def row(seed: int, method: str, rate: float, result: dict[str, Any]) -> tuple[str, ...]:
    """Return a table row of one run's result."""
    rates = [result["learned"], result["forgotten"]["held_out"], result["forgotten"]["in_set"]]
    counts = [f"{one['count']} of {one['of']}" for one in rates]
    verdict = "admitted" if result["gate"]["admitted"] else "refused"
    return (str(seed), method, f"{rate:g}", *counts, str(result["steps"]), f"{result['train_s']:.0f}", verdict)


def say(message: str, **event: Any) -> None:
    """Print a line of progress."""
    print(message, flush=True)


if __name__ == "__main__":
    sys.exit(main())
