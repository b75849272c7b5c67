"""The section of the configuration about studies: what is measured, how often, and when an alarm is raised."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from cpl_ray.config_types import Every, PositiveInt, Section, Seed, Share

Rate = Annotated[float, Field(gt=0)]
OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")
"""Those that the study `optimizers` knows; `momentum` is SGD with momentum 0.9."""


class StudyConfig(Section):
    """What `cpl study` measures. No effect on other verbs."""

    items: PositiveInt = 200
    """Mastered items, the first of M train, that are looked at one by one. Only `similarity`."""
    every: PositiveInt = 10
    """Updates between two measurements; the first is before the first update. Only `similarity`, `taylor` and
    `transfer`."""
    rates: list[Rate] = []
    """Learning rates that a step is tried with; empty: `optimizer.lr` times 1/16, 1/4, 1, 4, 16, 64. Only `taylor`."""
    window: PositiveInt = 20
    """Updates over which classes are watched for staying the same. Only `stability`."""
    flapping: Share = 0.25
    """Alarm: a layer's classes change more often than this per update, on the average of a window. Only `stability`."""
    stagnation: Share = 0.95
    """Alarm: more than this share of a layer keeps its class through a whole window. Only `stability`."""
    seeds: list[Seed] = []
    """Two training seeds; empty: `train.seed` and the one after it. Only `transfer`."""
    models: list[str] = []
    """Further base models whose layers are compared with those of `model`. Only `transfer`."""
    optimizer_rates: dict[str, list[Rate]] = {
        "sgd": [3e-2, 1e-1, 3e-1],
        "momentum": [3e-3, 1e-2, 3e-2],
        "adam": [3e-5, 1e-4, 3e-4],
        "adamw": [3e-5, 1e-4, 3e-4],
    }
    """Optimizers out of sgd, momentum, adam and adamw, and the rates each is tuned over. Only `optimizers`."""
    mastered_sizes: list[PositiveInt] = []
    """Numbers of items of M train to train with; empty: an eighth, a quarter, a half and all. Only `mastered-size`."""
    mastered_batch_sizes: Annotated[list[PositiveInt], Field(min_length=1)] = [16, 64]
    """Mastered items per refresh; where there are fewer, all of them. Only `mastered-size`."""
    refreshes: Annotated[list[Every], Field(min_length=1)] = [1, 4]
    """Values of `train.refresh`. Only `mastered-size`."""
    templates: list[str] = []
    """Other prompts for items whose question is filled into a template, as `prompt.template`; empty: three phrasings
    that go with the scorer. Only `generalisation`."""
    paraphrases: str | None = None
    """JSONL file of other wordings: `id` and `question` (filled into a template), or `prompt` or `cloze` (asked as it
    stands); an id may stand there several times. Items may also bring their own in a column `paraphrases`. Only
    `generalisation`."""
    rounds: Annotated[int, Field(ge=2, le=1000)] = 3
    """Parts, cut by `split.seed`, that the injection set is injected in, each into the model of the part before. Only
    `sequential` and `consumption`."""
    keep_learned: bool = True
    """True: what earlier rounds injected and the model answers rightly joins the mastered set of the next round; false:
    every round protects the original M train alone. Only `sequential` and `consumption`."""

    @field_validator("optimizer_rates", "mastered_sizes", "mastered_batch_sizes", "refreshes", "templates")
    @classmethod
    def _once(cls, value: Any) -> Any:
        """Refuse a value that stands in a list twice: it would be trained or asked twice for nothing."""
        for values in value.values() if isinstance(value, dict) else [value]:
            for one in values:
                if values.count(one) > 1:
                    raise ValueError(f"study: {one!r} stands in {values} twice; name it once")
        return value

    @field_validator("optimizer_rates")
    @classmethod
    def _named(cls, value: dict[str, list[float]]) -> dict[str, list[float]]:
        for name, rates in value.items():
            if name not in OPTIMIZERS:
                raise ValueError(f"study.optimizer_rates: {name!r} is not one of {', '.join(OPTIMIZERS)}")
            if not rates:
                raise ValueError(f"study.optimizer_rates: {name} has no rate; give at least one, e.g. [1e-4]")
        if not value:
            raise ValueError("study.optimizer_rates is empty; name optimizers with their rates, e.g. {adam: [1e-4]}")
        return value

    @field_validator("templates")
    @classmethod
    def _placeholder(cls, value: list[str]) -> list[str]:
        for one in value:
            if "{question}" not in one:
                raise ValueError(f"study.templates: each must contain {{question}}; got {one!r}")
        return value
