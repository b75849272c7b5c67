"""Sets larger than Ray's object store, streamed to a worker and scored by actors: memory, disk, back-pressure."""

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from benchmarks.fitted import Series
from benchmarks.processes import apart, resident
from benchmarks.random_items import save_small_model
from cpl_ray.actor_pool import Loaded, Work, on_actors
from cpl_ray.config import Config
from cpl_ray.encoding import Encoded
from cpl_ray.items import Item
from cpl_ray.order import ItemOrder
from cpl_ray.streams import BLOCK_ROWS, StreamSource, blocks_of, encoded_stream

STORE_BYTES = 80 << 20
LENGTH = 512
"""Tokens of a streamed item: a block of the stream has 8 MiB."""
STREAMED = (10, 40, 80)
"""Blocks: as large as the store, and four and eight times as large."""
SCORED = (80, 240, 480)
"""Blocks of a mebibyte."""
COUNTED = (250, 1_000, 4_000)
EPOCHS, BATCH = 2, 256
MIB = 1 << 20


def store(rounds: int, largest: float | None) -> list[Series]:
    """Stream sets of one, four and eight times the object store (80 MiB) for two epochs, by windows and whole."""
    made = []
    for name, window in (("window of 4096", BLOCK_ROWS), ("no window", None)):
        found = [(size * 8, apart(_streamed, size, window)) for size in STREAMED if largest is None or size <= largest]
        made += _listed(name, found, ("driver MB", "worker MB", "spilled MB", "store MB", "CPU s", "wall s"))
    return made


def pool(rounds: int, largest: float | None) -> list[Series]:
    """Work on sets of one, three and six times the object store with two actors; answers as large, read slowly."""
    found = [(size, apart(_pooled, size, MIB, 0.05)) for size in SCORED if largest is None or size <= largest]
    wanted = ("driver MB", "actor MB", "spilled MB", "store MB", "most blocks in flight", "wall s")
    return _listed("two actors", found, wanted)


def blocks(rounds: int, largest: float | None) -> list[Series]:
    """Work on ever more small blocks with two actors: what Ray Data adds for each block."""
    found = [(size, apart(_pooled, size, 4096, 0.0)) for size in COUNTED if largest is None or size <= largest]
    return [
        Series("two actors", "blocks", cost, [(size, one[cost]) for size, one in found])
        for cost in ("CPU s", "wall s", "driver MB")
    ]


def _listed(name: str, found: list[tuple[int, dict[str, float]]], wanted: tuple[str, ...]) -> list[Series]:
    return [Series(name, "MiB of the set", cost, [(size, one[cost]) for size, one in found]) for cost in wanted]


@contextmanager
def _ray() -> Iterator[None]:
    """Hold a Ray of two CPU slots and a small store on this machine; what it spills goes to a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=STORE_BYTES,
            object_spilling_directory=folder,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
        )
        try:
            yield
        finally:
            ray.shutdown()


class Watch:
    """The most that was seen of the store and of this process's own memory."""

    def __init__(self) -> None:
        self.store = self.private = 0.0

    def look(self) -> None:
        """Look once; the store is asked through Ray's own summary."""
        self.private = max(self.private, resident("RssAnon") / 1e6)
        self.store = max(self.store, _store().object_store_bytes_used / 1e6)

    def seen(self) -> dict[str, float]:
        """Return megabytes: of this process (without shared memory), of the store, spilled so far."""
        self.look()
        return {"driver MB": self.private, "store MB": self.store, "spilled MB": _store().spilled_bytes_total / 1e6}


def _store() -> Any:
    # what `ray memory --stats-only` prints is the same reply as text
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    return get_memory_info_reply(get_state_from_address(ray.get_runtime_context().gcs_address)).store_stats


@dataclass(frozen=True)
class MadeUp(Sequence[Item]):
    """A set that is never in memory as items, so that what a stream of it keeps is seen."""

    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self.size))]
        return Item(str(index), "completion", prompt="p", target="t")


class MadeUpEncoder:
    """Encodes the number of an item as tokens that tell it; looks at the driver's memory once a block."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def training(self, item: Item) -> Encoded:
        """Return `LENGTH` tokens."""
        number = int(item.id)
        if number % BLOCK_ROWS == 0:
            self.watch.look()
        return Encoded(item.id, _tokens(number), (1, 2, 3, 4))


def _tokens(number: int) -> tuple[int, ...]:
    return (number // 256, number % 256) * (LENGTH // 2 - 2)


def _streamed(num_blocks: int, window: int | None) -> dict[str, float]:
    with _ray():
        watch, rows = Watch(), num_blocks * BLOCK_ROWS
        encoder: Any = MadeUpEncoder(watch)
        started = time.perf_counter()
        dataset = encoded_stream(MadeUp(rows), encoder, "injection").materialize()
        dataset.context.enable_progress_bars = False
        read: Any = ray.remote(num_cpus=1)(_read)
        pending = read.remote(dataset.iterator(), rows, window)
        while not ray.wait([pending], timeout=0.5)[0]:
            watch.look()
        found = ray.get(pending)
        return {**watch.seen(), **found, "wall s": time.perf_counter() - started}


def _read(iterator: Any, num_rows: int, window: int | None) -> dict[str, float]:
    """Take the batches of two epochs as a worker does and check every row; runs in a process of Ray's."""
    source, order = StreamSource(blocks_of(iterator), num_rows, window), ItemOrder(num_rows, 0, window=window)
    most, cpu = 0.0, time.process_time()
    for epoch in range(EPOCHS):
        for index in range(order.steps_per_epoch(BATCH)):
            rows = order.batch(epoch, index, BATCH)
            for row, encoded in zip(rows, source.take(rows), strict=True):
                if encoded.id != str(row) or encoded.context_ids != _tokens(row):
                    raise RuntimeError(f"row {row} came back as {encoded.id}")
            most = max(most, resident("RssAnon") / 1e6)
    return {"worker MB": most, "CPU s": time.process_time() - cpu}


class InFlight:
    """Counts the blocks that are worked on or wait to be read."""

    def __init__(self) -> None:
        self.made = self.read = self.most = 0
        self.actor_mb = 0.0

    def add_made(self, actor_mb: float) -> None:
        """Count a block that an actor has made."""
        self.made += 1
        self.most = max(self.most, self.made - self.read)
        self.actor_mb = max(self.actor_mb, actor_mb)

    def add_read(self, number: int) -> None:
        """Count blocks that the driver has read."""
        self.read += number

    def seen(self) -> dict[str, float]:
        """Return the most that were made and not read, and the most memory of an actor."""
        return {"most blocks in flight": self.most, "actor MB": self.actor_mb}


def echoing(loaded: Loaded, *, counter: Any) -> Work:
    """Return work that costs nothing: each text comes back as it is."""

    def work(texts: list[str]) -> list[dict[str, Any]]:
        counter.add_made.remote(resident("RssAnon") / 1e6)
        return [{"text": text} for text in texts]

    return work


def _pooled(num_blocks: int, size: int, pause_s: float) -> dict[str, float]:
    given = Blocks(num_blocks, size)
    with tempfile.TemporaryDirectory() as folder, _ray():
        save_small_model(Path(folder))
        config = Config.model_validate({"model": folder, "cluster": {"num_workers": 2}})
        counter = _counter()
        watch, seen, read = Watch(), set(), 0
        cpu, started = time.process_time(), time.perf_counter()
        for rows in on_actors(
            given,
            echoing,
            {"counter": counter},
            schema=pa.schema([("text", pa.string())]),
            config=config,
            model_path=folder,
            num_actors=2,
        ):
            read += len(rows)
            seen |= {row["text"][:8] for row in rows}
            counter.add_read.remote(len(rows))
            if pause_s or read % 500 == 0:
                watch.look()
            time.sleep(pause_s)
        if len(seen) != num_blocks or read != num_blocks:
            raise RuntimeError(f"{len(seen)} of {num_blocks} blocks came back, in {read} rows")
        seconds = {"CPU s": time.process_time() - cpu, "wall s": time.perf_counter() - started}
        return {**watch.seen(), **ray.get(counter.seen.remote()), **seconds}


def _counter() -> Any:
    make: Callable[..., Any] = ray.remote(num_cpus=0)(InFlight)
    return make.remote()  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Blocks(Sequence[list[str]]):
    """Blocks of one text each, made when they are asked for; a text begins with its number."""

    number: int
    size: int

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self.number))]
        if not 0 <= index < self.number:
            raise IndexError(index)
        return [f"{index:08d}" + "x" * (self.size - 8)]
