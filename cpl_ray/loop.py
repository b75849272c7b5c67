"""The training loop: torch only. It runs the same under Ray Train, under plain gloo processes and in one process.

    for each update: [refresh due: mastered passes -> engine.capture()]  injection passes -> engine.update()
    (methods other than the rule mix mastered passes into the update's, or capture before the first update only)
    then, when due:  evaluate by the same scorer, stop at the learned target, checkpoint

The order of items is a pure function of seed and step, so the loop's whole state is two cursors and a few sums.
"""

import logging
import resource
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import torch

from cpl_ray.checkpoint import CHECKPOINTS, Saves, latest_checkpoint, load_checkpoint, save_checkpoint
from cpl_ray.collectives import Collectives
from cpl_ray.config import Config
from cpl_ray.errors import LayoutError, NonFiniteError
from cpl_ray.guard import Guard
from cpl_ray.inside_budget import learns_more_inside
from cpl_ray.layer_shares import LayerShares
from cpl_ray.layout import Layout
from cpl_ray.loop_state import LoopState
from cpl_ray.mastered import SignState
from cpl_ray.passes import Passes, RowSource
from cpl_ray.probes.base import Probe
from cpl_ray.recorder import Recorder
from cpl_ray.run_log import Place, event
from cpl_ray.schedule import learning_rate, planned_updates
from cpl_ray.step import Engine, update_metrics
from cpl_ray.vision import Vision

_log = logging.getLogger(__name__)
LAYER_RECORDS = 100  # about so many over a run
MEANS = ("collaborative_share", "conflict_share", "zero_share", "flip_rate", "moved_share")


class TrainEngine(Engine, Saves, Protocol):
    """An engine that trains and can be checkpointed."""


class TrainingLoop:
    """Trains one model by one method.

    Args:
        config: the run's configuration.
        engine: holds model and optimizer.
        injection: the injection set.
        mastered: the mastered set; None with rules that make no use of it.
        pad_id: token id of padding (masked everywhere).
        vision: makes the inputs of images, for a vision-language model.
        evaluate: scores the live model, all ranks together, and returns the record of an evaluation; None: never.
        run_folder: where metrics.jsonl and checkpoints go; shared by all ranks. None: nothing is written.
        zero_stage: recorded with checkpoints.
        keep: writes the live model to its place as the best inside the budget, all ranks together; None: never.
        report: called with each evaluation's record on every rank, with `step` and `evaluation` (its number, from 0).
        probe: measures around updates (probes/base.py); None: nothing more than usual.
        place: told how many updates are done, for the log.
        job: whose seconds `LoopState.seconds` counts; those of another one in a checkpoint are not kept.
    """

    def __init__(
        self,
        config: Config,
        engine: TrainEngine,
        injection: RowSource,
        mastered: RowSource | None,
        *,
        pad_id: int,
        vision: Vision | None = None,
        evaluate: Callable[[], dict[str, float]] | None = None,
        run_folder: Path | None = None,
        zero_stage: int = 0,
        keep: Callable[[], None] | None = None,
        report: Callable[[dict[str, float]], None] = lambda record: None,
        probe: Probe | None = None,
        place: Place | None = None,
        job: str = "",
    ) -> None:
        self.config = config
        self.engine = engine
        self.comm = Collectives(engine.device)
        self.state = LoopState(job=job)
        self._evaluate, self._report, self._probe = evaluate, report, probe
        self._place = place or Place("")
        self._run_folder, self._zero_stage, self._keep = run_folder, zero_stage, keep
        self.passes = Passes(config, engine, self.comm, injection, mastered, pad_id=pad_id, vision=vision)
        watches = config.guard.mode != "off" and config.mastered_passes == "capture"
        self._guard = Guard(config.guard, engine, self.comm, self.passes) if watches else None
        self.steps_per_epoch = self.passes.steps_per_epoch
        train = config.train
        self.total_steps = planned_updates(self.steps_per_epoch, train.epochs, train.max_steps)
        self.state.planned = self.total_steps
        self._layers_every = max(1, self.total_steps // LAYER_RECORDS)
        self._layers: LayerShares | None = None

    def run(self) -> LoopState:
        """Train to the end, from the newest checkpoint in the run folder if there is one.

        Raises:
            NonFiniteError: a loss or gradient is not finite; nothing moved in that step.
            ResumeError: the checkpoint does not fit this run.
        """
        torch.manual_seed(self.config.train.seed * 100_003 + self.comm.rank)
        self._restore()
        if self._probe is not None:
            self._probe.start(self)
        if self.engine.optimizer.method.needs_layout:
            self.engine.optimizer.method.bind(self.engine.layout())
        metrics_path = self._run_folder / "metrics.jsonl" if self._run_folder and self.comm.rank == 0 else None
        self._recorder = Recorder(metrics_path, self.state.step)
        _log.info(
            f"training from update {self.state.step} to {self.total_steps}",
            extra=event("started", total_steps=self.total_steps, world_size=self.comm.world_size),
        )
        try:
            if self.state.step == 0:
                self._run_evaluation()
            while self.state.step < self.total_steps and not self.state.stopped:
                self._run_update()
                step = self.state.step
                if self._due(self.config.evaluate.every, step):
                    self._run_evaluation()
                if self._due(self.config.train.checkpoint_every, step):
                    self._checkpoint()
            if self.state.step > 0 and not self.state.stopped and self.config.evaluate.every is not None:
                self._run_evaluation(last=True)
            if self._probe is not None:
                self._probe.end(self)
        except NonFiniteError as error:
            _log.error(f"stopped: {error}", extra=event("non_finite"))
            raise
        finally:
            self._recorder.close()
        why = "the learned target is reached" if self.state.stopped else "all updates are done"
        _log.info(f"ended after update {self.state.step}: {why}", extra=event("ended", stopped=self.state.stopped))
        return self.state

    def _due(self, every: str | int | None, step: int) -> bool:
        if every is None:
            return False
        return step % (self.steps_per_epoch if every == "epoch" else int(every)) == 0

    def _run_update(self) -> None:
        if self._probe is not None:
            self._probe.before_update(self)
        started = time.perf_counter()
        state, train = self.state, self.config.train
        epoch, index = divmod(state.step, self.steps_per_epoch)
        self.engine.module.train()
        record: dict[str, float] = {"epoch": state.step / self.steps_per_epoch}
        captured = self.passes.capture_if_due(state.step, state.captures)
        if self._guard is not None:
            self._guard.begin(epoch, state.captures + (captured is not None))
        result = self.passes.injection(epoch, index)
        mixed = self.passes.mix(state.captures)
        for mastered in (captured, mixed):
            if mastered is not None:
                state.captures += 1
                record |= mastered.record()
        lr = learning_rate(self.config.optimizer.lr, train.schedule, state.step, self.total_steps, train.warmup_steps)
        self.engine.set_lr(lr)
        by_layer = train.rule == "cpl" and (state.step + 1) % self._layers_every == 0
        self.engine.optimizer.mark_flips = by_layer
        self.engine.optimizer.update_index = state.step
        norm = self.engine.update()
        record |= {"loss_injection": result.loss, "grad_norm_injection": norm, "lr": lr}
        record |= update_metrics(self.engine, self.comm)
        if self._guard is not None:
            self._guard.end(record, state.guard)
            if not record["held"]:
                scale = record.get("step_scale", 1.0)
                change = {name: record[name] for name in ("mastered_loss_before", "mastered_loss_after")}
                _log.info(f"the guard left {scale:g} of a step", extra=event("guard", step_scale=scale, **change))
        tokens = sum(made.num_tokens for made in (captured, result, mixed) if made is not None)
        state.step += 1
        self._place.step = state.step
        self._count(record)
        record["seconds"] = time.perf_counter() - started
        self.state.seconds["updates"] += record["seconds"]
        record["tokens_per_s"] = tokens / record["seconds"]
        record["memory_bytes"] = float(self.comm.max(_memory_bytes(self.engine.device)))
        self._recorder.write("train", state.step, record)
        if by_layer:
            self._record_layers(flips_known="flip_rate" in record)
        if self._probe is not None:
            self._probe.after_update(self)

    def _record_layers(self, *, flips_known: bool) -> None:
        if self._layers is None:  # not sooner: ZeRO 3 shows its partitions at the first step
            layout = self._layout()
            if layout is None:
                self._layers_every = 1 << 62
                return
            self._layers = LayerShares(layout, self.engine.replicas, self.comm)
        shares, flips = self._layers.measure(self.engine.optimizer.kept_states)
        self._recorder.write("layers", self.state.step, shares)
        if flips_known:
            self._recorder.write("layer_flips", self.state.step, flips)
        for kept in self.engine.optimizer.kept_states:
            if isinstance(kept, SignState):
                kept.flips(False)  # nobody asks again, and the next passes can use the memory

    def _layout(self) -> Layout | None:
        """Return the engine's layout; None, on all ranks alike, where it cannot be told: training goes on without."""
        layout, reason = None, ""
        try:
            layout = self.engine.layout()
        except LayoutError as error:
            reason = str(error)
        if not self.comm.max(int(layout is None)):
            return layout
        if self.comm.rank == 0:
            _log.warning(f"shares by layer are not recorded: {reason or 'another rank cannot tell its layout'}")
        return None

    def _count(self, record: dict[str, float]) -> None:
        state = self.state
        state.moved_against += record.get("moved_against", 0.0)
        for name in MEANS:
            if name in record:
                state.sums[name] = state.sums.get(name, 0.0) + record[name]
                state.counts[name] = state.counts.get(name, 0) + 1

    def _run_evaluation(self, *, last: bool = False) -> None:
        if self._evaluate is None or (last and self.state.last_evaluation.get("step") == self.state.step):
            return
        started = time.perf_counter()
        record = self._evaluate()
        self.state.seconds["evaluations"] += time.perf_counter() - started
        self.state.last_evaluation = {"step": self.state.step, **record}
        self._recorder.write("eval", self.state.step, record)
        _log.info(f"evaluated after update {self.state.step}", extra=event("evaluation", **record))
        self._report({"step": float(self.state.step), "evaluation": float(self.state.evaluations), **record})
        self.state.evaluations += 1
        limit = self.config.budget.max_forgetting
        if self._keep is not None and learns_more_inside(record, self.state.inside_budget, limit):
            self._keep()
            self.state.inside_budget = self.state.last_evaluation
        target = self.config.train.stop_at_learned
        if target is not None and record.get("learned_of"):
            self.state.stopped = record["learned"] / record["learned_of"] >= target

    def _checkpoint(self) -> None:
        if self._run_folder is not None:
            started = time.perf_counter()
            self._recorder.sync()
            save_checkpoint(
                self.engine,
                self.comm,
                self._run_folder / CHECKPOINTS,
                step=self.state.step,
                zero_stage=self._zero_stage,
                state=asdict(self.state),
                keep=self.config.train.keep_checkpoints,
            )
            self.state.seconds["checkpoints"] += time.perf_counter() - started
            _log.info(f"checkpoint written after update {self.state.step}", extra=event("checkpoint"))

    def _restore(self) -> None:
        checkpoint = latest_checkpoint(self._run_folder / CHECKPOINTS) if self._run_folder else None
        if checkpoint is not None:
            loaded = load_checkpoint(self.engine, self.comm, checkpoint, zero_stage=self._zero_stage)
            fresh, self.state = self.state, LoopState(**loaded)
            if self.state.job != fresh.job:
                self.state.job, self.state.seconds = fresh.job, fresh.seconds
        self._place.step = self.state.step
        self.engine.optimizer.planned_updates = self.state.planned
        if checkpoint is not None:
            said = event("resumed", checkpoint=checkpoint.folder.name)
            _log.info(f"resuming after update {self.state.step}", extra=said)


def _memory_bytes(device: torch.device) -> int:
    """Return the peak memory of this process: allocated on the GPU, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
