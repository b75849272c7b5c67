"""What a run will need, worked out before anything is launched: memory per rank, tokens, arithmetic, what to change."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PretrainedConfig

from cpl_ray.activations import Pass, Working, working_memory
from cpl_ray.census import Census
from cpl_ray.config import Config
from cpl_ray.devices import GIB
from cpl_ray.footprint import CPU_BUCKET, GPU_BUCKET, Footprint, Setup, flat_sizes, footprint
from cpl_ray.item_sizes import RunItems
from cpl_ray.length_groups import pass_cost
from cpl_ray.methods.build import build_method
from cpl_ray.optimizer import CPLOptimizer
from cpl_ray.skeleton import census_of, skeleton
from cpl_ray.workload import Batching, Workload, batching, workload
from cpl_ray.wrapped import load_optimizer_class

MARGIN = 0.10
"""Share of the memory that is left alone: fragments of the allocator, what libraries take in passing."""
CONTEXT = GIB
"""Taken by the driver's context, NCCL and the libraries of linear algebra on a GPU."""
MORE_WORKERS = (2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Choice:
    """One way to run it."""

    stage: int
    offload: bool
    checkpointing: bool
    num_workers: int
    dtype: str

    def applied(self, config: Config) -> Config:
        """Return the configuration with this choice, at the same global batch as far as it divides."""
        values = config.model_dump()
        values |= {"zero_stage": self.stage, "offload_optimizer": self.offload}
        values["train"] |= {"gradient_checkpointing": self.checkpointing, "dtype": self.dtype}
        values["cluster"] |= {"num_workers": self.num_workers}
        return Config.model_validate(values)


class Forecast:
    """The memory of a run's choices, each counted once.

    Args:
        config: the run.
        settings: of the model.
        items: its items.
        on_cpu: train on CPUs, where what is offloaded lies in the same memory.
        usable_bytes: of one rank.
    """

    def __init__(
        self, config: Config, settings: PretrainedConfig, items: RunItems, *, on_cpu: bool, usable_bytes: int
    ) -> None:
        self.config, self.settings, self.items = config, settings, items
        self.on_cpu, self.usable_bytes = on_cpu, usable_bytes
        self.census: Census = census_of(skeleton(config, settings))
        cost = None if config.running_zero_stage == 3 else pass_cost(on_cpu=on_cpu)
        self.workload: Workload = workload(config, items.injection, items.mastered, items.held_out, cost)
        train = config.train
        self.micro_batches = {"injection": train.micro_batch_size}
        if config.mastered_passes != "none":
            micro = train.mastered_micro_batch_size or train.micro_batch_size
            self.micro_batches["mastered"] = 1 if config.mastered_passes == "start" else micro
        sets = {"injection": items.injection, "mastered": items.mastered}
        self.batches: dict[str, Batching] = {
            name: batching(sets[name], config, size, cost) for name, size in self.micro_batches.items()
        }
        self.notes: list[str] = []
        """What could not be counted."""
        self._setups: dict[Choice, Setup] = {}
        self._working: dict[tuple[Pass, bool], tuple[Working, Working]] = {}

    def shape(self, name: str) -> Pass:
        """Return the shape of the largest micro-batch of `injection` or `mastered`."""
        batch, rows = self.batches[name], self.micro_batches[name]
        return Pass(rows, batch.length, batch.positions, max(1, round(batch.targets * rows)))

    def working(self, choice: Choice, factor: float = 1.0) -> Working:
        """Return the peak of the larger pass, with `factor` times as many injection items in it.

        Mastered ones grow alike, unless their number per pass is set by itself.
        """
        fixed = self.config.train.mastered_micro_batch_size is not None or self.config.mastered_passes == "start"
        factors = {name: 1.0 if name == "mastered" and fixed else factor for name in self.micro_batches}
        alike = {self.shape(name) for name in self.micro_batches if not fixed}
        smaller = {one for one in alike if any(one != other and one.within(other) for other in alike)}
        shapes = [(self.shape(name), factors[name]) for name in self.micro_batches if self.shape(name) not in smaller]
        most = [self._pass(shape, choice, times) for shape, times in shapes]
        return Working(max(w.beside_gradients for w in most), max(w.freed_gradients for w in most))

    def memory(self, choice: Choice, factor: float = 1.0) -> Footprint:
        """Return the memory of one rank; `factor` as in `working`."""
        working = self.working(choice, factor)
        if choice not in self._setups:
            self._setups[choice] = setup_of(choice.applied(self.config), self.census, on_cpu=self.on_cpu)
        return footprint(self.census, self._setups[choice], working.beside_gradients, working.freed_gradients)

    def needed(self, choice: Choice, factor: float = 1.0) -> int:
        """Return the bytes that must be there on the device: of CPUs, with what is offloaded."""
        found = self.memory(choice, factor)
        return found.everything if self.on_cpu else found.total

    def fits(self, choice: Choice) -> bool:
        """Tell whether a rank has room for it."""
        return self.needed(choice) <= self.usable_bytes

    def largest_micro_batch(self, choice: Choice) -> int:
        """Return the most injection items per pass that fit; 0: not even one."""
        rows = self.micro_batches["injection"]
        low, high = 0, 1
        while high <= 1 << 14 and self.needed(choice, high / rows) <= self.usable_bytes:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            if self.needed(choice, middle / rows) <= self.usable_bytes:
                low = middle
            else:
                high = middle
        return low

    def present(self) -> Choice:
        """Return what the configuration says."""
        config = self.config
        train, stage = config.train, config.running_zero_stage
        workers = config.cluster.num_workers
        return Choice(stage, config.offload_optimizer, train.gradient_checkpointing, workers, train.dtype)

    def choices(self) -> list[Choice]:
        """Return the stages that can run, without and with offload, everything else as configured."""
        now = self.present()
        stages = (1, 2, 3) if now.dtype == "bfloat16" else (0, 1, 2, 3)
        plain = [replace(now, stage=stage, offload=False) for stage in stages]
        return plain + [replace(now, stage=stage, offload=True) for stage in (1, 2, 3)]

    def recommended(self) -> Choice | None:
        """Return the lowest stage that fits, the fastest: without offload before with it; None: none fits."""
        return next((choice for choice in self.choices() if self.fits(choice)), None)

    def remedies(self) -> Iterator[tuple[str, Choice]]:
        """Yield what else would make it fit, as keys to set, each with the lowest stage for it."""
        now = self.present()
        stages = [choice.stage for choice in self.choices() if not choice.offload]
        attempts: list[tuple[str, Choice]] = []
        if not now.checkpointing:
            attempts.append(("train.gradient_checkpointing=true", replace(now, checkpointing=True)))
        if now.dtype == "float32":
            attempts.append(("train.dtype=bfloat16", replace(now, dtype="bfloat16")))
        for workers in MORE_WORKERS:
            if workers > now.num_workers:
                attempts.append((f"cluster.num_workers={workers}", replace(now, num_workers=workers)))
        said_workers = False
        for words, attempt in attempts:
            by_workers = attempt.num_workers > now.num_workers
            if by_workers and said_workers:
                continue
            for stage in stages if attempt.dtype == now.dtype else (1, 2, 3):
                option = replace(attempt, stage=stage, offload=False)
                if self._remedy_fits(option):
                    yield f"{words} zero_stage={stage}", option
                    said_workers = said_workers or by_workers
                    break

    def _remedy_fits(self, choice: Choice) -> bool:
        if choice.dtype == self.present().dtype:
            return self.fits(choice)
        other = Forecast(
            choice.applied(self.config), self.settings, self.items, on_cpu=self.on_cpu, usable_bytes=self.usable_bytes
        )
        return other.fits(choice)

    def _pass(self, shape: Pass, choice: Choice, factor: float) -> Working:
        key = (shape, choice.checkpointing)
        if key not in self._working:
            self._working[key] = self._counted(shape, checkpointing=choice.checkpointing)
        once, twice = self._working[key]
        return once.plus(twice, factor - 1)

    def _counted(self, shape: Pass, *, checkpointing: bool) -> tuple[Working, Working]:
        """Count a pass of this shape and one of twice the rows; where that cannot be done, say so and count nothing."""
        try:
            once, twice = (
                working_memory(self.config, self.settings, shape.times(times), checkpointing=checkpointing)
                for times in (1, 2)
            )
        # a model whose flow depends on values (experts, image towers) fails on tensors without data in many ways
        except Exception as error:
            reason = str(error).strip().split("\n", 1)[0]
            note = f"activations cannot be counted for this model and are missing: {type(error).__name__}: {reason}"
            if note not in self.notes:
                self.notes.append(note)
            return Working(0, 0), Working(0, 0)
        return once, twice


def setup_of(config: Config, census: Census, *, on_cpu: bool) -> Setup:
    """Return what decides memory beside the model and the batch, asked of the very classes that will run."""
    zero = config.deepspeed.get("zero_optimization", {})
    train, guard = config.train, config.guard
    sizes = flat_sizes(census, config.running_zero_stage, config.cluster.num_workers)
    accumulates = train.gradient_accumulation_steps > 1
    if config.mastered_passes in ("capture", "mix"):
        micro = train.mastered_micro_batch_size or train.micro_batch_size
        items = train.mastered_batch_size / config.cluster.num_workers
        accumulates = accumulates or config.mastered_passes == "mix" or train.refresh == "epoch" or items > micro
    return Setup(
        stage=config.running_zero_stage,
        world_size=config.cluster.num_workers,
        offload=config.offload_optimizer,
        element=2 if train.dtype == "bfloat16" else 4,
        moments=moment_bytes(config, sizes),
        mastered=kept_bytes(config, sizes),
        guard=4 if guard.mode in ("adapt", "rollback") and config.mastered_passes == "capture" else 0,
        transient=_stepping(config),
        accumulates=accumulates,
        bucket=int(zero.get("reduce_bucket_size", CPU_BUCKET if on_cpu else GPU_BUCKET)),
        threshold=int(zero.get("stage3_param_persistence_threshold", 100_000)),
        prefetch=int(zero.get("stage3_prefetch_bucket_size", 50_000_000)),
    )


def _stepping(config: Config) -> int:
    """Return bytes per element in passing of a step: foreign optimizers take a whole tensor at once (wrapped.py)."""
    return 12 if "." in config.optimizer.name else 0  # before, gradient, and what it moved


def moment_bytes(config: Config, sizes: Sequence[int]) -> int:
    """Return the bytes of the optimizer's state for flat tensors of so many elements, from the optimizer itself.

    A foreign one makes its state at its first step, so it takes one on a small tensor.
    """
    settings = config.optimizer
    if "." in settings.name:
        param = torch.nn.Parameter(torch.zeros(1024))
        param.grad = torch.zeros(1024)
        make: Any = load_optimizer_class(settings.name)
        foreign = make([param], lr=settings.lr, **settings.options)
        foreign.step()
        state = [value for value in foreign.state[param].values() if isinstance(value, torch.Tensor)]
        return sum(sum(sizes) * t.element_size() if t.numel() == 1024 else len(sizes) * t.nbytes for t in state)
    flats = [torch.nn.Parameter(torch.zeros(size, device="meta")) for size in sizes]
    optimizer = CPLOptimizer(flats, name=settings.name, momentum=settings.momentum)
    optimizer.init_state()
    return sum(t.nbytes for state in optimizer.state.values() for t in state.values())


def kept_bytes(config: Config, sizes: Sequence[int]) -> int:
    """Return the bytes of what the method keeps for flat tensors of so many elements, from the method itself."""
    method = build_method(config)
    kept = [method.new_kept(torch.zeros(size, device="meta")) for size in sizes]
    return sum(tensor.nbytes for one in kept if one is not None for tensor in one.tensors().values())
