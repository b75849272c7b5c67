"""Time alternatives in turn, so that whatever else the machine does hits all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Timing:
    """Seconds of one alternative over its rounds."""

    name: str
    median_s: float
    low_s: float
    """10th percentile."""
    high_s: float
    """90th percentile."""
    ratio: float
    """Median of the per-round ratios to the first alternative."""
    rounds_s: tuple[float, ...] = ()
    """Each round."""

    def ratio_to(self, other: "Timing") -> float:
        """Return the median of the per-round ratios to an alternative of the same comparison."""
        return statistics.median(a / b for a, b in zip(self.rounds_s, other.rounds_s, strict=True))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    alternatives: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Timing]:
    """Run every alternative once a round, in turn; the first is the reference of the ratios.

    `clock` tells seconds: of the wall, or `time.process_time` for those spent computing, on one thread, where the
    machine has much else to do.
    """
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for number in range(warmup + rounds):
        for name, run in alternatives.items():
            started = clock()
            run()
            if number >= warmup:
                seconds[name].append(clock() - started)
    reference = next(iter(seconds.values()))
    timings = []
    for name, own in seconds.items():
        deciles = statistics.quantiles(own, n=10)
        ratio = statistics.median(a / b for a, b in zip(own, reference, strict=True))
        timings.append(Timing(name, statistics.median(own), deciles[0], deciles[-1], ratio, tuple(own)))
    return timings
