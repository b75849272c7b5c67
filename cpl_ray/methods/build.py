"""Which method a configuration means."""

from cpl_ray.config import Config
from cpl_ray.config_methods import Rule
from cpl_ray.errors import ConfigError
from cpl_ray.mastered import FullState, SignState
from cpl_ray.methods.base import Method
from cpl_ray.methods.collaborative import Collaborative

_STATES: dict[str, type[SignState]] = {"sign": SignState, "full": FullState}
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
        return Collaborative(_STATES[train.mastered_state], train.mask_on)
    raise ConfigError(f"train.rule={train.rule} is not available")
