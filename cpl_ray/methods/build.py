"""Which method a configuration means."""

from collections.abc import Callable

from cpl_ray.config import Config
from cpl_ray.config_methods import Rule
from cpl_ray.errors import ConfigError
from cpl_ray.mastered import FullState, SignState
from cpl_ray.methods.anchored import EWC, L2SP
from cpl_ray.methods.base import Method
from cpl_ray.methods.cautious import Cautious
from cpl_ray.methods.collaborative import Collaborative
from cpl_ray.methods.hft import HFT
from cpl_ray.methods.mofo import MoFO
from cpl_ray.methods.random_mask import RandomMask

_STATES: dict[str, type[SignState]] = {"sign": SignState, "full": FullState}
_STRENGTHS: dict[Rule, float] = {"l2sp": 0.01, "ewc": 1000.0}  # where method.strength is null

METHODS: dict[Rule, type[Method]] = {
    "none": Method,
    "cpl": Collaborative,
    "replay": Method,  # its mastered loss comes in with the passes, before the optimizer
    "l2sp": L2SP,
    "ewc": EWC,
    "random_mask": RandomMask,
    "hft": HFT,
    "mofo": MoFO,
    "cautious": Cautious,
}
_MAKERS: dict[Rule, Callable[[Config], Method]] = {  # of the methods that take settings
    "cpl": lambda config: Collaborative(_STATES[config.train.mastered_state], config.train.mask_on),
    "l2sp": lambda config: L2SP(_strength(config)),
    "ewc": lambda config: EWC(_strength(config)),
    "random_mask": lambda config: RandomMask(config.method.density, config.train.seed),
    "hft": lambda config: HFT(config.train.seed),
    "mofo": lambda config: _mofo(config),
    "cautious": lambda config: Cautious(decoupled=config.optimizer.name == "adamw"),
}


def build_method(config: Config) -> Method:
    """Return the method of `train.rule` with its settings.

    Raises:
        ConfigError: the rule does not go with another setting.
    """
    rule = config.train.rule
    if rule not in METHODS:
        raise ConfigError(f"train.rule={rule} is not available; valid are {', '.join(METHODS)}")
    return _MAKERS[rule](config) if rule in _MAKERS else METHODS[rule]()


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
