"""Which method a configuration means."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from cpl_ray.config import Config
from cpl_ray.config_methods import Rule
from cpl_ray.errors import ConfigError
from cpl_ray.estimators import LARGEST_AVERAGE, AverageState, VoteState
from cpl_ray.mastered import FullState, SignState
from cpl_ray.methods.anchored import EWC, L2SP
from cpl_ray.methods.base import Method
from cpl_ray.methods.cautious import Cautious
from cpl_ray.methods.collaborative import Collaborative
from cpl_ray.methods.gem import Gem
from cpl_ray.methods.graddrop import GradDrop
from cpl_ray.methods.hft import HFT
from cpl_ray.methods.mofo import MoFO
from cpl_ray.methods.projections import AGem, PCGrad
from cpl_ray.methods.random_mask import RandomMask

_STRENGTHS: dict[Rule, float] = {"l2sp": 0.01, "ewc": 1000.0}  # where method.strength is null

METHODS: dict[Rule, Callable[[Config], Method]] = {
    "none": lambda config: Method(),
    "cpl": lambda config: Collaborative(mastered_state(config), config.train.mask_on),
    "replay": lambda config: Method(),  # its mastered loss comes in with the passes, before the optimizer
    "l2sp": lambda config: L2SP(_strength(config)),
    "ewc": lambda config: EWC(_strength(config)),
    "random_mask": lambda config: RandomMask(config.method.density, config.train.seed),
    "hft": lambda config: HFT(config.train.seed),
    "mofo": lambda config: _mofo(config),
    "cautious": lambda config: Cautious(decoupled=config.optimizer.name == "adamw"),
    "agem": lambda config: AGem(),
    "pcgrad": lambda config: PCGrad(),
    "gem": lambda config: Gem(config.method.memory, config.method.margin),
    "graddrop": lambda config: GradDrop(config.train.seed),
}
"""How the method of each `train.rule` is made of the settings; making one takes no memory to speak of."""


def build_method(config: Config) -> Method:
    """Return the method of `train.rule` with its settings.

    Raises:
        ConfigError: the rule is not there, or does not go with another setting.
    """
    make = METHODS.get(config.train.rule)
    if make is None:
        raise ConfigError(f"train.rule={config.train.rule} is not available; valid are {', '.join(METHODS)}")
    return make(config)


def _strength(config: Config) -> float:
    given = config.method.strength
    return _STRENGTHS[config.train.rule] if given is None else given


def _mofo(config: Config) -> MoFO:
    if config.optimizer.name == "sgd" and not config.optimizer.momentum:
        raise ConfigError(
            "train.rule=mofo selects by momentum, and optimizer.name=sgd with optimizer.momentum=0 has none; "
            "use adam, adamw, or sgd with optimizer.momentum above 0"
        )
    return MoFO(config.method.density)


def mastered_state(config: Config) -> Callable[[Tensor], SignState]:
    """Return what makes the state of `train.mastered_state` for a flat tensor.

    Raises:
        ConfigError: an average that 8 bits cannot follow.
    """
    train = config.train
    if train.mastered_state == "ema8":
        if train.mastered_average > LARGEST_AVERAGE:
            raise ConfigError(
                f"train.mastered_average={train.mastered_average:g} is too slow for 8 bits: one refresh would change "
                f"the average by less than they can tell; with mastered_state ema8 it must be <= {LARGEST_AVERAGE:g}"
            )
        return partial(AverageState, share=train.mastered_average)
    if train.mastered_state == "vote":
        return partial(VoteState, share=train.mastered_average, majority=train.vote_majority)
    return FullState if train.mastered_state == "full" else SignState
