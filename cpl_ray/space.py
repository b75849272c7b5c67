"""The search space of a sweep: which keys take which values, and the points that follow from a seed."""

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from cpl_ray.config import Config
from cpl_ray.config_run import SearchConfig
from cpl_ray.errors import ConfigError
from cpl_ray.keys import all_keys, unknown_key

Kind = Literal["grid", "choice", "uniform", "loguniform"]
Point = dict[str, Any]

KINDS = ("grid", "choice", "uniform", "loguniform")
# what all trials of a sweep share (one assessment, one place, one budget) cannot differ between them
_SHARED = {
    "the assessment, which all trials share": ("model", "model_revision", "data", "split", "prompt", "assess"),
    "where and how trials run": ("run", "tracking", "cluster", "search", "compare", "gate", "trust_remote_code"),
    "what is judged": ("budget",),
}


@dataclass(frozen=True)
class Dimension:
    """One searched key."""

    key: str
    kind: Kind
    values: tuple[Any, ...]
    """The values of a grid or choice; low and high of a range."""

    @property
    def whole(self) -> bool:
        """Whether a range is one of whole numbers."""
        return all(isinstance(value, int) for value in self.values)

    def sample(self, rng: random.Random) -> Any:
        """Return one value, independent of all others."""
        if self.kind in ("grid", "choice"):
            return self.values[rng.randrange(len(self.values))]
        low, high = self.values
        if self.kind == "uniform":
            return rng.randint(low, high) if self.whole else rng.uniform(low, high)
        value = math.exp(rng.uniform(math.log(low), math.log(high)))
        return min(high, max(low, round(value))) if self.whole else min(high, max(low, value))


def dimensions(config: Config) -> list[Dimension]:
    """Return the searched keys of `search.space`, checked against the configuration.

    Raises:
        ConfigError: the space is empty, a key is unknown or cannot differ between trials, a specification is not
            understood, or a value is not valid for its key.
    """
    if not config.search.space:
        raise ConfigError(
            "search.space is empty; name the keys to search, e.g. "
            "search.space={optimizer.lr: {loguniform: [1e-5, 1e-3]}}"
        )
    found = [_dimension(str(key), spec) for key, spec in flat_keys(config.search.space).items()]
    for dimension in found:
        for value in dimension.values:
            with_point(config, {dimension.key: value})
    if config.search.algorithm == "grid" and any(one.kind != "grid" for one in found):
        other = next(one for one in found if one.kind != "grid")
        raise ConfigError(
            f"search.algorithm: grid needs grids only, but {other.key} is a {other.kind}; use random or optuna"
        )
    if len(set(config.search.seeds)) != len(config.search.seeds):
        raise ConfigError(f"search.seeds: {config.search.seeds} has a seed twice")
    return found


def algorithm_of(search: SearchConfig, found: Sequence[Dimension]) -> Literal["grid", "random", "optuna"]:
    """Return the algorithm that `search.algorithm` means for this space."""
    if search.algorithm == "auto":
        return "grid" if all(one.kind == "grid" for one in found) else "optuna"
    return search.algorithm


def grid_points(found: Sequence[Dimension]) -> list[Point]:
    """Return every combination of the grids, the last key varying fastest; one empty point where there are none."""
    grids = [one for one in found if one.kind == "grid"]
    return [
        dict(zip((one.key for one in grids), values, strict=True))
        for values in itertools.product(*(one.values for one in grids))
    ]


def random_point(found: Sequence[Dimension], index: int, seed: int) -> Point:
    """Return the sampled point of a number: grids are gone through in turn, other keys are drawn independently.

    A point depends on nothing but its number and the seed, so more trials keep the earlier ones.
    """
    grids = grid_points(found)
    point = dict(grids[index % len(grids)])
    rng = random.Random(f"{seed}/{index}")
    return {one.key: point[one.key] if one.kind == "grid" else one.sample(rng) for one in found}


def with_point(config: Config, point: Mapping[str, Any], where: str = "search.space") -> Config:
    """Return the configuration with the values of a point, which was given in the section `where`.

    Raises:
        ConfigError: a value is not valid; names key and value.
    """
    tree = config.model_dump()
    for key, value in point.items():
        place = tree
        *path, leaf = key.split(".")
        for part in path:
            place = place.setdefault(part, {})
        place[leaf] = value
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        shown = ", ".join(f"{key}={value!r}" for key, value in point.items())
        keys = all_keys()
        valid = "; ".join(f"{key}: {keys[key].valid}" for key in point if key in keys)
        reason = error.errors()[0]["msg"]
        raise ConfigError(f"{where}: {shown} is not valid ({reason}); valid is {valid or 'another value'}") from None


def flat_keys(space: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted keys also where the space is written as nested sections."""
    flat: dict[str, Any] = {}
    sections = {key.name for key in all_keys().values() if key.section}
    for key, spec in space.items():
        name = f"{prefix}{key}"
        if name in sections and isinstance(spec, Mapping):
            flat |= flat_keys(spec, f"{name}.")
        else:
            flat[name] = spec
    return flat


def _dimension(key: str, spec: Any) -> Dimension:
    check_key(key)
    if key == "train.seed":
        raise ConfigError("search.space: train.seed is not searched; give search.seeds to run every point with several")
    if isinstance(spec, list):
        spec = {"grid": spec}
    if not isinstance(spec, Mapping) or len(spec) != 1 or next(iter(spec)) not in KINDS:
        raise ConfigError(
            f"search.space: {key} is {spec!r}; valid is a list of values or one of "
            "{grid: [...]}, {choice: [...]}, {uniform: [low, high]}, {loguniform: [low, high]}"
        )
    kind, values = next(iter(spec.items()))
    if not isinstance(values, list) or not values:
        raise ConfigError(f"search.space: {key} has {kind} {values!r}; valid is a list with at least one value")
    if kind in ("grid", "choice"):
        if any(values.count(value) > 1 for value in values):
            raise ConfigError(f"search.space: {key} has a value twice in {values!r}")
        return Dimension(key, kind, tuple(values))
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if not numbers or len(values) != 2 or not values[0] < values[1] or not math.isfinite(values[1] - values[0]):
        raise ConfigError(f"search.space: {key} has {kind} {values!r}; valid are two numbers, the smaller first")
    if kind == "loguniform" and values[0] <= 0:
        raise ConfigError(f"search.space: {key} has loguniform from {values[0]!r}; the lower end must be above 0")
    return Dimension(key, kind, tuple(values))


def check_key(key: str, where: str = "search.space") -> None:
    """Refuse a key that is unknown or cannot differ between trials.

    Raises:
        ConfigError: begins with `where` the key was given.
    """
    keys = all_keys()
    free = any(known.free and key.startswith(f"{known.name}.") for known in keys.values())
    if not free and (key not in keys or keys[key].section):
        raise ConfigError(f"{where}: {unknown_key(key)}")
    for why, names in _SHARED.items():
        if any(key == name or key.startswith(f"{name}.") for name in names):
            raise ConfigError(f"{where}: {key} concerns {why}; it cannot differ between trials")
