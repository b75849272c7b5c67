"""The section of the configuration about studies: what is measured, how often, and when an alarm is raised."""

from typing import Annotated

from pydantic import Field

from cpl_ray.config_types import PositiveInt, Section, Share


class StudyConfig(Section):
    """What `cpl study` measures. No effect on other verbs."""

    items: PositiveInt = 200
    """Mastered items, the first of M train, that are looked at one by one. Only `similarity`."""
    every: PositiveInt = 10
    """Updates between two measurements; the first is before the first update. Only `similarity`, `taylor` and
    `transfer`."""
    rates: list[Annotated[float, Field(gt=0)]] = []
    """Learning rates that a step is tried with; empty: `optimizer.lr` times 1/16, 1/4, 1, 4, 16, 64. Only `taylor`."""
    window: PositiveInt = 20
    """Updates over which classes are watched for staying the same. Only `stability`."""
    flapping: Share = 0.25
    """Alarm: a layer's classes change more often than this per update, on the average of a window. Only `stability`."""
    stagnation: Share = 0.95
    """Alarm: more than this share of a layer keeps its class through a whole window. Only `stability`."""
    seeds: list[int] = []
    """Two training seeds; empty: `train.seed` and the one after it. Only `transfer`."""
    models: list[str] = []
    """Further base models whose layers are compared with those of `model`. Only `transfer`."""
    rounds: Annotated[int, Field(ge=2)] = 3
    """Parts, cut by `split.seed`, that the injection set is injected in, each into the model of the part before. Only
    `sequential` and `consumption`."""
    keep_learned: bool = True
    """True: what earlier rounds injected and the model answers rightly joins the mastered set of the next round; false:
    every round protects the original M train alone. Only `sequential` and `consumption`."""
