"""Which items a pass of the training loop takes, forward and backward, and what it leaves in the engine."""

import math
from dataclasses import dataclass
from typing import Protocol

from cpl_ray.batches import MicroBatch, micro_batch
from cpl_ray.collectives import Collectives
from cpl_ray.config import Config
from cpl_ray.encoding import Encoded
from cpl_ray.errors import DataError
from cpl_ray.length_groups import pass_cost
from cpl_ray.order import ItemOrder, Rows, rank_micro_batches
from cpl_ray.step import Engine, PassResult, accumulate, mean_loss
from cpl_ray.vision import Vision

MASTERED_SEED_OFFSET = 1_000_003  # the two sets must not share their permutations


class RowSource(Protocol):
    """Random access to a set's encoded rows (streams may need them asked for in order)."""

    num_rows: int

    def take(self, rows: Rows) -> list[Encoded]: ...


@dataclass(frozen=True)
class MasteredPass(PassResult):
    """A pass over mastered items."""

    grad_norm: float | None = None
    """Norm of g_M; of its last part where it was captured in parts; None where it was not captured."""

    def record(self) -> dict[str, float]:
        """Return what metrics.jsonl says of it."""
        norm = {} if self.grad_norm is None else {"grad_norm_mastered": self.grad_norm}
        return {**norm, "loss_mastered": self.loss}


class Passes:
    """The passes of one training run over its two sets, in the order that seed and position say.

    Args:
        config: the run's configuration.
        engine: holds model and optimizer.
        comm: all ranks make one together.
        injection: the injection set.
        mastered: the mastered set; None with rules that make no use of it.
        pad_id: token id of padding (masked everywhere).
        vision: makes the inputs of images, for a vision-language model.

    Raises:
        DataError: the rule needs a mastered set and there is none.
    """

    def __init__(
        self,
        config: Config,
        engine: Engine,
        comm: Collectives,
        injection: RowSource,
        mastered: RowSource | None,
        *,
        pad_id: int,
        vision: Vision | None = None,
    ) -> None:
        if config.mastered_passes != "none" and mastered is None:
            raise DataError(f"train.rule={config.train.rule} needs a mastered set")
        self._config, self._engine, self._comm, self._pad_id = config, engine, comm, pad_id
        self._vision = vision
        # stage 3 gathers parameters in every forward pass: all ranks have to make equally many
        on_cpu = engine.device.type == "cpu"
        self._pass_cost = None if config.running_zero_stage == 3 else pass_cost(on_cpu=on_cpu)
        self._injection, self._mastered = injection, mastered
        train, window = config.train, config.data.shuffle_window
        self._batch_size = train.micro_batch_size * train.gradient_accumulation_steps * comm.world_size
        self._order = ItemOrder(injection.num_rows, train.seed, train.shuffle, window)
        if mastered is not None:
            seed = train.seed + MASTERED_SEED_OFFSET
            self._mastered_order = ItemOrder(mastered.num_rows, seed, train.shuffle, window)
        self.steps_per_epoch = self._order.steps_per_epoch(self._batch_size)

    def injection(self, epoch: int, index: int) -> PassResult:
        """Leave the gradient of an epoch's global batch in the engine."""
        train = self._config.train
        rows = self._order.batch(epoch, index, self._batch_size)
        batches = self._batches(self._injection, rows, self._batch_size, train.micro_batch_size)
        return accumulate(self._engine, batches, self._comm, "injection")

    def capture_if_due(self, step: int, captures: int) -> MasteredPass | None:
        """Make g_M where the method wants it before update `step`; None: it does not, or what it has is fresh.

        Args:
            step: updates done.
            captures: refreshes done.
        """
        kind, optimizer = self._config.mastered_passes, self._engine.optimizer
        epoch, index = divmod(step, self.steps_per_epoch)
        refresh = self._config.train.refresh
        if kind == "start" and not optimizer.has_mastered:
            rows = self._mastered_order.batch(0, 0, self._config.method.fisher_items)
            optimizer.method.captures_per_refresh = len(rows)
            return self.capture(rows, len(rows))
        due = index == 0 if refresh == "epoch" else step % int(refresh) == 0
        if kind == "capture" and (due or not optimizer.has_mastered):
            return self.capture(self.mastered_rows(epoch, captures), optimizer.method.captures_per_refresh)
        return None

    def mastered_rows(self, epoch: int, captures: int) -> Rows:
        """Return the rows of a refresh: the whole of M train (refresh `epoch`) or the next mastered batch."""
        assert self._mastered is not None
        if self._config.train.refresh == "epoch":
            return self._mastered_order.batch(epoch, 0, self._mastered.num_rows)
        return self._mastered_order.endless(captures, self._config.train.mastered_batch_size)

    def capture(self, rows: Rows, parts: int = 1) -> MasteredPass:
        """Make g_M from rows, or one of each of so many equal parts of them; nothing moves."""
        size = math.ceil(len(rows) / parts)
        results = []
        for start in range(0, len(rows), size):
            results.append(self.mastered(rows[start : start + size], size))
            norm = self._engine.capture()
        loss = sum(result.loss for result in results) / len(results)
        return MasteredPass(loss, sum(result.num_tokens for result in results), norm)

    def mix(self, captures: int) -> MasteredPass | None:
        """Add the weighted gradient of the next mastered batch to what is in the engine, where the method wants it."""
        if self._config.mastered_passes != "mix":
            return None
        assert self._mastered is not None
        rows = self._mastered_order.endless(captures, self._config.train.mastered_batch_size)
        result = self.mastered(rows, len(rows), weight=self._config.method.replay_weight)
        return MasteredPass(result.loss, result.num_tokens)

    def mastered(self, rows: Rows, global_size: int, *, weight: float = 1.0) -> PassResult:
        """Add the gradient of the mean loss of mastered rows to what is in the engine."""
        batches = self._mastered_batches(rows, global_size)
        return accumulate(self._engine, batches, self._comm, "mastered", weight=weight)

    def sample(self, epoch: int, captures: int) -> list[MicroBatch]:
        """Return this rank's micro-batches of a refresh, by the number of refreshes before it."""
        rows = self.mastered_rows(epoch, captures)
        return self._mastered_batches(rows, len(rows))

    def _mastered_batches(self, rows: Rows, global_size: int) -> list[MicroBatch]:
        assert self._mastered is not None
        micro = self._config.train.mastered_micro_batch_size or self._config.train.micro_batch_size
        return self._batches(self._mastered, rows, global_size, micro)

    def over(self, side: str, rows: Rows) -> PassResult:
        """Add the gradient of the mean loss of any rows of `mastered` or `injection` to what is in the engine."""
        if side == "mastered":
            return self.mastered(rows, len(rows))
        batches = self._batches(self._injection, rows, len(rows), self._config.train.micro_batch_size)
        return accumulate(self._engine, batches, self._comm, "injection")

    def loss_of_mastered(self, rows: Rows) -> float:
        """Return the mean loss of mastered rows; forward only."""
        assert self._mastered is not None
        micro = self._config.train.mastered_micro_batch_size or self._config.train.micro_batch_size
        return mean_loss(self._engine, self._batches(self._mastered, rows, len(rows), micro), self._comm)

    def num_rows(self, side: str) -> int:
        """Return how many rows `mastered` or `injection` has."""
        return self._source(side).num_rows

    def ids(self, side: str, rows: Rows) -> list[str]:
        """Return the items' ids of rows of `mastered` or `injection`."""
        return [row.id for row in self._source(side).take(rows)]

    def _source(self, side: str) -> RowSource:
        source = self._mastered if side == "mastered" else self._injection
        assert source is not None
        return source

    def _batches(self, source: RowSource, rows: Rows, global_size: int, micro_batch_size: int) -> list[MicroBatch]:
        micro = rank_micro_batches(
            rows,
            rank=self._comm.rank,
            world_size=self._comm.world_size,
            global_size=global_size,
            micro_batch_size=micro_batch_size,
        )
        return [
            micro_batch(source.take(part), self._pad_id, cost=self._pass_cost, vision=self._vision) for part in micro
        ]
