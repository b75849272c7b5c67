"""The plan of a run in numbers, worked out from the configuration and the counted items."""

from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

from cpl_ray.config import Config
from cpl_ray.config_methods import Mastered
from cpl_ray.rundir import runs_folder
from cpl_ray.tracking_uri import default_uri, redact
from pipelines.checks import DataFound


@dataclass(frozen=True)
class Plan:
    """What a run will do; items and batches are counted over all workers."""

    model: str
    num_items: dict[str, int]
    scorer: str | None
    rule: str
    mastered_passes: Mastered
    refresh: str | int
    optimizer: str
    lr: float
    dtype: str
    zero_stage: int
    """The stage that really runs."""
    offload_optimizer: bool
    num_workers: int
    use_gpu: bool
    cpus_per_worker: float
    global_batch_size: int
    micro_batch_size: int
    gradient_accumulation_steps: int
    mastered_batch_size: int | None
    """Mastered items per refresh; None: all of M train, or none where the rule uses no mastered gradient."""
    updates_per_epoch: int | None
    """None where the items are split first."""
    updates_per_epoch_at_most: int | None
    epochs: int
    max_steps: int | None
    stop_at_learned: float | None
    evaluate_every: str | int | None
    checkpoint_every: str | int | None
    run_dir: str
    tracking: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, for `--json`."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """Return the plan as labels and texts for people."""
        device = "one GPU" if self.use_gpu else f"{self.cpus_per_worker:g} CPU"
        offload = ", optimizer state in CPU memory" if self.offload_optimizer else ""
        stop = "" if self.stop_at_learned is None else f", or {self.stop_at_learned:.0%} learned"
        return [
            ("model", self.model),
            ("items", ", ".join(f"{name}: {count}" for name, count in self.num_items.items())),
            ("scorer", self.scorer or "chosen when the items are read"),
            ("rule", self.rule + self._mastered()),
            ("optimizer", f"{self.optimizer}, lr {self.lr:g}, {self.dtype}"),
            ("workers", f"{self.num_workers}, {device} each, ZeRO stage {self.zero_stage}{offload}"),
            (
                "global batch",
                f"{self.global_batch_size} = {self.micro_batch_size} per pass x {self.num_workers} workers "
                f"x {self.gradient_accumulation_steps} accumulated",
            ),
            ("updates per epoch", self._updates()),
            ("ends after", f"{self._end()}{stop}"),
            ("evaluation", _every(self.evaluate_every)),
            ("checkpoints", _every(self.checkpoint_every)),
            ("run folder", self.run_dir),
            ("tracking", self.tracking or "off"),
        ]

    def _mastered(self) -> str:
        if self.mastered_passes != "capture":
            mixed = f", {self.mastered_batch_size} mastered items in every update"
            return {"none": "", "mix": mixed, "start": ", mastered items before the first update"}[self.mastered_passes]
        if self.refresh == "epoch":
            return ", mastered gradient of all of M train at each epoch"
        when = "at every update" if self.refresh == 1 else f"every {self.refresh} updates"
        return f", mastered gradient of {self.mastered_batch_size} items {when}"

    def _updates(self) -> str:
        if self.updates_per_epoch is not None:
            return str(self.updates_per_epoch)
        if self.updates_per_epoch_at_most is not None:
            return f"known after assessment; at most {self.updates_per_epoch_at_most}"
        return "known after assessment"

    def _end(self) -> str:
        if self.updates_per_epoch is None:
            return f"{self.epochs} epochs" + ("" if self.max_steps is None else f", at most {self.max_steps} updates")
        planned = self.epochs * self.updates_per_epoch
        if self.max_steps is not None and self.max_steps < planned:
            return f"{self.max_steps} updates"
        return f"{planned} updates ({self.epochs} epochs)"


def _every(every: str | int | None) -> str:
    if every is None:
        return "none"
    return "each epoch" if every == "epoch" else f"every {every} updates"


def plan_of(config: Config, found: DataFound) -> Plan:
    """Work out the plan of `config` on the items that were `found`."""
    train, cluster, batch = config.train, config.cluster, config.global_batch_size
    base = runs_folder(config)
    injection = found.num_items.get("injection", found.num_items.get("injection_train"))
    candidates = found.num_items.get("items")
    passes = config.mastered_passes
    uses_batches = passes == "mix" or (passes == "capture" and train.refresh != "epoch")
    return Plan(
        model=config.model,
        num_items=found.num_items,
        scorer=found.scorer,
        rule=train.rule,
        mastered_passes=passes,
        refresh=train.refresh,
        optimizer=config.optimizer.name,
        lr=config.optimizer.lr,
        dtype=train.dtype,
        zero_stage=config.running_zero_stage,
        offload_optimizer=config.offload_optimizer,
        num_workers=cluster.num_workers,
        use_gpu=cluster.use_gpu,
        cpus_per_worker=cluster.cpus_per_worker,
        global_batch_size=batch,
        micro_batch_size=train.micro_batch_size,
        gradient_accumulation_steps=train.gradient_accumulation_steps,
        mastered_batch_size=train.mastered_batch_size if uses_batches else None,
        updates_per_epoch=None if injection is None else ceil(injection / batch),
        updates_per_epoch_at_most=None if candidates is None else ceil(candidates / batch),
        epochs=train.epochs,
        max_steps=train.max_steps,
        stop_at_learned=train.stop_at_learned,
        evaluate_every=config.evaluate.every,
        checkpoint_every=train.checkpoint_every,
        run_dir=str(base / (config.run.name or "(a new name)")),
        tracking=redact(default_uri(config, base)) if config.tracking.enabled else None,
    )
