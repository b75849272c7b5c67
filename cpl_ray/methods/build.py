"""Which method a configuration means."""

from collections.abc import Callable

from cpl_ray.config import Config
from cpl_ray.config_methods import Rule
from cpl_ray.errors import ConfigError
from cpl_ray.mastered import FullState, SignState
from cpl_ray.methods.base import Method
from cpl_ray.methods.collaborative import Collaborative
from cpl_ray.methods.gem import Gem
from cpl_ray.methods.graddrop import GradDrop
from cpl_ray.methods.projections import AGem, PCGrad

_STATES: dict[str, type[SignState]] = {"sign": SignState, "full": FullState}
METHODS: dict[Rule, Callable[[Config], Method]] = {
    "none": lambda config: Method(),
    "cpl": lambda config: Collaborative(_STATES[config.train.mastered_state], config.train.mask_on),
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
