"""Which method a configuration means."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from cpl_ray.config import Config
from cpl_ray.config_methods import Rule
from cpl_ray.errors import ConfigError
from cpl_ray.estimators import LARGEST_AVERAGE, AverageState, VoteState
from cpl_ray.mastered import FullState, SignState
from cpl_ray.methods.base import Method
from cpl_ray.methods.collaborative import Collaborative

METHODS: dict[Rule, type[Method]] = {"none": Method, "cpl": Collaborative}


def build_method(config: Config) -> Method:
    """Return the method of `train.rule` with its settings.

    Raises:
        ConfigError: the rule does not go with another setting.
    """
    train = config.train
    if train.rule == "none":
        return Method()
    if train.rule == "cpl":
        return Collaborative(mastered_state(config), train.mask_on)
    raise ConfigError(f"train.rule={train.rule} is not available")


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
