"""What an update costs against parameters, tokens, mastered items and workers: CPU seconds, one thread each."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.fitted import Series
from benchmarks.processes import apart, resident, together
from benchmarks.random_items import RandomRows, model_settings
from cpl_ray.calibration import one_process, random_model
from cpl_ray.collectives import Collectives
from cpl_ray.config import Config
from cpl_ray.engine import ZeroEngine
from cpl_ray.loop import TrainingLoop
from cpl_ray.optimizer import CPLOptimizer, Mode
from cpl_ray.passes import Passes

SHAPES = {1: (128, 4), 5: (256, 5), 20: (512, 5), 60: (768, 6), 200: (1280, 8)}
"""Millions of parameters, nearly: hidden size and layers."""
MICRO = 8


def parameters(rounds: int, largest: float | None) -> list[Series]:
    """Step and capture of the optimizer, and a whole CPL update of 4 + 4 rows of 16 tokens, against parameters."""
    millions = _sizes(tuple(SHAPES), largest)
    steps = [apart(_optimizer, number * 1_000_000, rounds) for number in millions]
    updates = [apart(_whole_update, *SHAPES[number], 4, 16, rounds) for number in millions]
    series = [
        _series(what, "parameters", [(found["size"], found[what]) for found in steps])
        for what in ("capture, eager", "step, eager", "capture, compiled", "step, compiled")
    ]
    series.append(_series("whole update", "parameters", [(found["size"], found["update"]) for found in updates]))
    for name, found in (("step", steps), ("whole update", updates)):
        peaks = [(one["size"], one["peak_bytes"] / 1e6) for one in found]
        series.append(Series(f"memory, {name}", "parameters", "peak MB", peaks))
    return series


def tokens(rounds: int, largest: float | None) -> list[Series]:
    """A whole CPL update of a model of 5 million parameters against the tokens of its injection batch."""
    rows, lengths = _sizes((1, 2, 4, 8, 16, 32), largest), _sizes((16, 32, 64, 128, 256, 512, 1024), largest)
    more = [(number * MICRO * 64, apart(_whole_update, *SHAPES[5], number * MICRO, 64, rounds)) for number in rows]
    longer = [(length * MICRO, apart(_whole_update, *SHAPES[5], MICRO, length, rounds)) for length in lengths]
    return [
        _series("more rows of 64 tokens", "tokens", [(size, found["update"]) for size, found in more]),
        _series(f"{MICRO} rows, longer", "tokens", [(size, found["update"]) for size, found in longer]),
    ]


def mastered(rounds: int, largest: float | None) -> list[Series]:
    """One capture over the whole mastered set (`train.refresh: epoch`), 32 tokens an item, 1 million parameters."""
    found = apart(_captures, _sizes((64, 128, 256, 512, 1024, 2048), largest), rounds)
    return [
        _series("capture over M", "mastered items", [(size, seconds) for size, seconds, _ in found]),
        Series("memory", "mastered items", "peak MB", [(size, peak / 1e6) for size, _, peak in found]),
    ]


def workers(rounds: int, largest: float | None) -> list[Series]:
    """The same updates (32 + 32 rows of 64 tokens, 5 million parameters, ZeRO 2) on 1, 2 and 4 gloo processes."""
    counts = _sizes((1, 2, 4), largest)
    found = {count: together(_rank, count, 32, rounds) for count in counts}
    share = [(1 / count, max(one["cpu"] for one in found[count])) for count in reversed(counts)]
    whole = [(count, sum(one["cpu"] for one in found[count])) for count in counts]
    wall = [(count, max(one["wall"] for one in found[count])) for count in counts]
    peaks = [(count, max(one["peak_bytes"] for one in found[count]) / 1e6) for count in counts]
    return [
        Series("the busiest rank", "share of the batch", "CPU s an update", share),
        Series("all ranks", "workers", "CPU s an update", whole),
        Series("waiting", "workers", "wall s an update", wall, grows=False),
        Series("memory of a rank", "workers", "peak MB", peaks, grows=False),
    ]


def _sizes(sizes: tuple[int, ...], largest: float | None) -> list[int]:
    return [size for size in sizes if largest is None or size <= largest]


def _series(name: str, size: str, points: Sequence[tuple[float, float]]) -> Series:
    return Series(name, size, "CPU s", points)


def _median(run: Callable[[], object], rounds: int, clock: Callable[[], float] = time.process_time) -> float:
    """Return the median of a few timings after one that is not counted: it makes buffers and state."""
    seconds = []
    for _ in range(rounds + 1):
        started = clock()
        run()
        seconds.append(clock() - started)
    return statistics.median(seconds[1:])


def _optimizer(num_params: int, rounds: int) -> dict[str, float]:
    """Time capture and step of one flat AdamW partition, eager and compiled; 16.4 bytes per parameter are held."""
    param = torch.nn.Parameter(torch.empty(num_params).normal_())
    gradient: Tensor = torch.empty(num_params).normal_()
    param.grad = gradient
    found: dict[str, float] = {"size": num_params}
    for name, compile in (("eager", "never"), ("compiled", "always")):
        optimizer = CPLOptimizer([param], lr=1e-4, weight_decay=0.01, compile=compile)  # type: ignore[arg-type]
        for what, mode in (("capture", Mode.CAPTURE), ("step", Mode.UPDATE)):

            def step(mode: Mode = mode, optimizer: CPLOptimizer = optimizer) -> None:
                optimizer.start(mode)
                optimizer.step()

            found[f"{what}, {name}"] = _median(step, rounds)
        del optimizer, step
    return {**found, "peak_bytes": resident("VmHWM")}


def _config(stage: int, rows: int, world_size: int, *, refresh: int | str = 1) -> Config:
    train = {
        "micro_batch_size": min(MICRO, rows // world_size),
        "gradient_accumulation_steps": max(1, rows // world_size // MICRO),
        "mastered_batch_size": rows,
        "refresh": refresh,
        "checkpoint_every": None,
        "max_steps": 1 << 20,
    }
    return Config.model_validate(
        {"model": "random", "zero_stage": stage, "train": train, "evaluate": {"every": None}, "guard": {"mode": "off"}}
    )


def _whole_update(hidden: int, layers: int, rows: int, length: int, rounds: int) -> dict[str, float]:
    """Time one update with its capture in one process: both passes, g_M, step."""
    config = _config(0, rows, 1)
    with one_process(1):
        engine = ZeroEngine(random_model(config, model_settings(hidden, layers)), config)
        passes = _passes(config, engine, rows, length)
        engine.module.train()
        update = _median(lambda: _update(passes, engine), rounds)
        return {"size": engine.num_params, "update": update, "peak_bytes": resident("VmHWM")}


def _passes(config: Config, engine: ZeroEngine, rows: int, length: int) -> Passes:
    injection, known = RandomRows(rows, length, 0), RandomRows(rows, length, 1)
    return Passes(config, engine, Collectives(engine.device), injection, known, pad_id=0)


def _update(passes: Passes, engine: ZeroEngine) -> None:
    passes.capture_if_due(0, 0)
    passes.injection(0, 0)
    engine.update()


def _captures(sizes: list[int], rounds: int) -> list[tuple[int, float, int]]:
    """Return (items, seconds of a capture over all, peak bytes of the process so far)."""
    config = _config(0, MICRO, 1, refresh="epoch")
    found = []
    with one_process(1):
        engine = ZeroEngine(random_model(config, model_settings(*SHAPES[1])), config)
        engine.module.train()
        for size in sizes:
            passes = Passes(
                config, engine, Collectives(engine.device), RandomRows(8, 32, 0), RandomRows(size, 32, 1), pad_id=0
            )
            seconds = _median(lambda passes=passes: passes.capture(passes.mastered_rows(0, 0)), rounds)  # type: ignore[misc]
            found.append((size, seconds, resident("VmHWM")))
    return found


def _rank(rows: int, rounds: int) -> dict[str, float]:
    """Run one update that is not counted and `rounds` that are through the training loop; seconds are per update."""
    world_size = torch.distributed.get_world_size()
    config = _config(2, rows, world_size)
    engine = ZeroEngine(random_model(config, model_settings(*SHAPES[5])), config)
    loop = TrainingLoop(config, engine, RandomRows(rows, 64, 0), RandomRows(rows, 64, 1), pad_id=0)
    loop.total_steps = 1
    loop.run()
    cpu, wall = time.process_time(), time.perf_counter()
    loop.total_steps = 1 + rounds
    loop.run()
    seconds = {"cpu": (time.process_time() - cpu) / rounds, "wall": (time.perf_counter() - wall) / rounds}
    return {**seconds, "peak_bytes": resident("VmHWM")}
