"""Trainings of one finished run's world that advance from evaluation to evaluation: plain torch, and our loop."""

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from benchmarks import plain_reference
from benchmarks.demo_world import Prepared, World
from cpl_ray.engine import ZeroEngine
from cpl_ray.loading import load_config
from cpl_ray.loop import TrainingLoop

PRESET = Path(__file__).parents[1] / "configs" / "paper" / "qwen2.5-1.5b_arc_c.yaml"


class Plain:
    """The transcription, an epoch at a time."""

    def __init__(self, world: Prepared) -> None:
        self.module: nn.Module = world.model
        settings = world.config.optimizer
        sets = [world.rows(part) for part in ("mastered_train", "injection_train")]
        mastered, injection = (plain_reference.plain_items(rows.take(tuple(range(rows.num_rows)))) for rows in sets)
        self._training = plain_reference.train(
            world.model,
            mastered,
            injection,
            optimizer=settings.name,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            betas=settings.betas,
            eps=settings.eps,
        )
        self._per_epoch = len(injection)
        self.updates, self.epochs = 0, 0.0

    def advance(self) -> None:
        """Train until the next evaluation."""
        next(self._training)
        self.updates += self._per_epoch
        self.epochs += 1


class Ours:
    """Our loop and engine, from evaluation to evaluation; metrics are written as in any run, checkpoints are not."""

    def __init__(self, world: Prepared, folder: Path) -> None:
        self._engine = ZeroEngine(world.model, world.config)
        self.module = self._engine.module
        injection, mastered = world.rows("injection_train"), world.rows("mastered_train")
        self._loop = TrainingLoop(world.config, self._engine, injection, mastered, pad_id=0, run_folder=folder)
        every = world.config.evaluate.every
        self._every = every if isinstance(every, int) else self._loop.steps_per_epoch
        self.updates, self.epochs = 0, 0.0

    def advance(self) -> None:
        """Train until the next evaluation."""
        self._loop.total_steps = self.updates + self._every
        self.updates = self._loop.run().step
        self.epochs = self.updates / self._loop.steps_per_epoch


@dataclass
class Racer:
    """One training on its way to the target."""

    name: str
    trainer: Plain | Ours
    world: Prepared
    seconds: float = 0.0
    learned: dict[str, float] | None = None

    def advance(self) -> None:
        """Train until the next evaluation, on the clock, and evaluate off it."""
        started = time.process_time()
        self.trainer.advance()
        self.seconds += time.process_time() - started
        self.learned = self.world.counter("injection_train").run(self.trainer.module)

    def arrived(self, target: float) -> bool:
        """Tell whether the last evaluation found this share learned."""
        return self.learned is not None and self.learned["learned"] / self.learned["learned_of"] >= target

    def result(self) -> dict[str, Any]:
        """Count what was learned and forgotten: all parts."""
        held_out = self.world.counter("mastered_test").run(self.trainer.module)
        others = self.world.counter("injection_train", "mastered_train", "mastered_validation").run(self.trainer.module)
        names = ("learned", "forgotten_in_set", "forgotten_validation")
        return {
            "name": self.name,
            "epochs": self.trainer.epochs,
            "updates": self.trainer.updates,
            "seconds": self.seconds,
            "forgotten_held_out": held_out["forgotten_validation"],
            "forgotten_held_out_of": held_out["forgotten_validation_of"],
            **{f"{name}{suffix}": others[f"{name}{suffix}"] for name in names for suffix in ("", "_of")},
        }


class Race:
    """Makes the trainers of one finished run's world.

    Args:
        run: the run's folder.
        compile: `optimizer.compile` of ours.
        optimizer: of plain and paper.
        folder: where the loops write.
    """

    def __init__(self, run: Path, compile: str, optimizer: str, folder: Path) -> None:
        self._run, self._world, self._folder = run, World(run), folder
        self.own = load_config(run / "config.yaml")
        self.budget = self.own.budget.max_forgetting
        self._ours = ["zero_stage=0", "tracking.enabled=false", "cluster.num_workers=1", f"optimizer.compile={compile}"]
        self._ours += ["train.stop_at_learned=null", "train.checkpoint_every=null"]
        preset = yaml.safe_load(PRESET.read_text(encoding="utf-8"))["train"]
        self._paper = [f"train.{key}={json.dumps(value)}" for key, value in preset.items()]
        self._paper += ["evaluate.every=epoch", f"optimizer.name={optimizer}"]

    def plain(self, lr: float) -> Racer:
        """Return the transcription."""
        world = self._prepare([*self._paper, f"optimizer.lr={lr}"])
        return Racer("plain torch", Plain(world), world)

    def paper(self, lr: float, *more: str) -> Racer:
        """Return our preset of the same mathematics."""
        world = self._prepare([*self._paper, f"optimizer.lr={lr}", *more])
        return Racer(" ".join(["paper preset", *more]), self._loop(world), world)

    def scalable(self, variant: str) -> Racer:
        """Return the run's own settings, with the changes of a variant: `KEY=VALUE KEY=VALUE`."""
        batch = f"train.micro_batch_size={self.own.global_batch_size}"
        world = self._prepare([batch, "train.gradient_accumulation_steps=1", *variant.split()])
        return Racer(f"scalable {variant or 'as the run'}", self._loop(world), world)

    def _prepare(self, overrides: Sequence[str]) -> Prepared:
        return self._world.prepare(load_config(self._run / "config.yaml", [*self._ours, *overrides]))

    def _loop(self, world: Prepared) -> Ours:
        return Ours(world, Path(tempfile.mkdtemp(dir=self._folder)))
