"""The methods of a comparison: names, the settings each stands for, and the rates it is tuned over."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cpl_ray.config import Config
from cpl_ray.errors import ConfigError
from cpl_ray.space import check_key, flat_keys, with_point

RATE = "optimizer.lr"
DENSITY = "method.density"
BUILT_IN: dict[str, dict[str, Any]] = {
    "cpl": {"train.rule": "cpl"},
    "cpl_gradient": {"train.rule": "cpl", "train.mask_on": "gradient"},
    "cpl_ema": {"train.rule": "cpl", "train.mastered_state": "ema8"},
    "cpl_vote": {"train.rule": "cpl", "train.mastered_state": "vote"},
    "fine_tuning": {"train.rule": "none"},
    "replay": {"train.rule": "replay"},
    "l2sp": {"train.rule": "l2sp"},
    "ewc": {"train.rule": "ewc"},
    "agem": {"train.rule": "agem"},
    "pcgrad": {"train.rule": "pcgrad"},
    "gem": {"train.rule": "gem"},
    "graddrop": {"train.rule": "graddrop"},
    "random_mask": {"train.rule": "random_mask"},
    "hft": {"train.rule": "hft"},
    "mofo": {"train.rule": "mofo"},
    "cautious": {"train.rule": "cautious"},
    "lora": {"train.rule": "none", "adapter.name": "lora"},
    "osft": {"train.rule": "none", "adapter.name": "osft"},
}
"""What each name sets over the configuration."""

# a comparison is fair where these are the same for all
_SAME_FOR_ALL = {
    RATE: "it is tuned; give compare.method_rates",
    "train.seed": "all methods run with compare.seeds",
    "train.stop_at_learned": "all methods have the same target",
    "train.epochs": "all methods have the same number of epochs",
    "train.max_steps": "all methods have the same number of updates",
    "train.keep_inside_budget": "all methods have the same budget",
    "evaluate.every": "all methods are evaluated equally often",
}


@dataclass(frozen=True)
class Contender:
    """One method of a comparison."""

    name: str
    overrides: dict[str, Any]
    """Dotted keys over the configuration."""
    rates: tuple[float, ...]
    own_rates: bool
    """Whether the rates are other ones than those of most methods."""
    is_rule: bool
    """Whether it is the rule or a variant of it, and no rival."""
    density_of: str | None = None
    """The method whose measured collaborative share is its density; None: it has its settings from the start."""

    def point(self, rate: float, density: float | None = None) -> dict[str, Any]:
        """Return the settings of a trial."""
        measured = {} if density is None else {DENSITY: density}
        return {**self.overrides, **measured, RATE: rate}


def contenders(config: Config) -> list[Contender]:
    """Return the methods of `compare`, checked against the configuration.

    Raises:
        ConfigError: a name is unknown or stands twice, a grid is empty, a key is unknown or must not differ between
            methods, a value is not valid, or there is nothing to choose by.
    """
    compare = config.compare
    check_choice(config)
    if not compare.methods:
        raise ConfigError(f"compare.methods is empty; name some of {', '.join(BUILT_IN)}")
    named = [pair for entry in compare.methods for pair in _pairs(entry)]
    names = [name for name, _ in named]
    _check_twice("compare.methods", names)
    _check_twice("compare.seeds", compare.seeds)
    for unknown in set(compare.method_rates) - set(names):
        raise ConfigError(f"compare.method_rates: {unknown!r} is not compared; compared are {', '.join(names)}")
    return [_contender(config, name, settings, names) for name, settings in named]


def reference_of(found: list[Contender]) -> str | None:
    """Return the method that the others are tested against: `cpl`, else the first variant of it; None without one."""
    variants = [one.name for one in found if one.is_rule]
    return "cpl" if "cpl" in variants else next(iter(variants), None)


def _pairs(entry: str | Mapping[str, Mapping[str, Any]]) -> list[tuple[str, dict[str, Any] | None]]:
    """Return name and own settings of the methods of one entry of `compare.methods`."""
    return [(entry, None)] if isinstance(entry, str) else [(name, dict(own)) for name, own in entry.items()]


def _contender(config: Config, name: str, own: dict[str, Any] | None, names: list[str]) -> Contender:
    if name not in BUILT_IN and own is None:
        raise ConfigError(_unknown(name))
    settings = {} if own is None else flat_keys(own)
    for key in settings:
        check_key(key, f"compare.methods: {name}")
        if key in _SAME_FOR_ALL:
            raise ConfigError(f"compare.methods: {name} sets {key}, but {_SAME_FOR_ALL[key]}")
    overrides = {**BUILT_IN.get(name, {}), **settings}
    rates = config.compare.method_rates.get(name, config.compare.rates)
    where = f"compare.method_rates: {name}" if name in config.compare.method_rates else "compare.rates"
    if not rates:
        raise ConfigError(f"{where} is empty; give at least one optimizer.lr, e.g. [1e-5, 1e-4]")
    _check_twice(where, rates)
    applied = with_point(config, {**overrides, RATE: rates[0]}, f"compare.methods: {name}")
    density_of = None
    if applied.train.rule == "random_mask" and DENSITY not in overrides:
        density_of = "cpl"
        if "cpl" not in names:
            raise ConfigError(
                f"compare.methods: {name} takes the collaborative share measured of cpl as its density; compare cpl "
                f"too, or write {name}: {{{DENSITY}: 0.5}}"
            )
    return Contender(
        name,
        overrides,
        tuple(rates),
        own_rates=list(rates) != list(config.compare.rates),
        is_rule=applied.train.rule == "cpl",
        density_of=density_of,
    )


def check_choice(config: Config) -> None:
    """Refuse a comparison in which no rate could be chosen, or at unequal learning."""
    if config.train.stop_at_learned is None:
        raise ConfigError(
            "train.stop_at_learned is null, but methods are compared at equal learning; set the share at which all "
            "stop, e.g. train.stop_at_learned=0.95"
        )
    check_validation(config, "the rates of all methods are chosen")


def check_validation(config: Config, what: str) -> None:
    """Refuse a configuration without M validation, by which `what` is done."""
    brought = config.data.assessment is None and config.data.mastered is not None
    if brought or (config.data.assessment is None and not config.split.mastered_validation):
        why = "brought sets have none; give data.items" if brought else "split.mastered_validation is 0"
        raise ConfigError(f"M validation is empty, and {what} by it: {why}")


def _check_twice(where: str, values: list[Any]) -> None:
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        raise ConfigError(f"{where}: {twice[0]} stands there twice")


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, BUILT_IN, n=3, cutoff=0.5)
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    return (
        f"compare.methods: there is no method {name!r}; {meant}"
        f"valid are {', '.join(BUILT_IN)}, or a method of your own as {name}: {{train.rule: …}}"
    )
