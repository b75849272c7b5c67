"""The sections of the configuration about methods: rivals of the rule, adapters, and the guard of finite steps."""

from typing import Annotated, Literal

from pydantic import Field

from cpl_ray.config_types import PositiveInt, Section

Rule = Literal[
    "cpl",
    "none",
    "replay",
    "l2sp",
    "ewc",
    "agem",
    "pcgrad",
    "gem",
    "graddrop",
    "random_mask",
    "hft",
    "mofo",
    "cautious",
]
Mastered = Literal["none", "capture", "mix", "start"]
MASTERED: dict[Rule, Mastered] = {
    "cpl": "capture",
    "none": "none",
    "replay": "mix",
    "l2sp": "none",
    "ewc": "start",
    "agem": "capture",
    "pcgrad": "capture",
    "gem": "capture",
    "graddrop": "capture",
    "random_mask": "none",
    "hft": "none",
    "mofo": "none",
    "cautious": "none",
}
"""How mastered items come in: their gradient at each refresh (`capture`), their loss beside every update's (`mix`), one
item at a time before the first update (`start`)."""
TITLES: dict[str, str] = {
    "cpl": "Collaborative Parameter Learning",
    "none": "plain fine-tuning",
    "replay": "fine-tuning with replay",
    "l2sp": "L2-SP",
    "ewc": "elastic weight consolidation",
    "agem": "A-GEM",
    "pcgrad": "PCGrad",
    "gem": "GEM",
    "graddrop": "GradDrop",
    "random_mask": "fine-tuning under a random mask",
    "hft": "Half Fine-Tuning",
    "mofo": "MoFO",
    "cautious": "a cautious optimizer",
}
"""Names of the methods in texts."""


class MethodConfig(Section):
    """Settings of the methods that the rule is compared with (`train.rule` other than `cpl` and `none`)."""

    replay_weight: Annotated[float, Field(gt=0)] = 1.0
    """Weight of the mastered loss beside the injection loss. Only `replay`."""
    strength: Annotated[float, Field(ge=0)] | None = None
    """Weight of the penalty on the distance from the base model; null: 0.01 for `l2sp`, 1000 for `ewc`."""
    fisher_items: PositiveInt = 128
    """Mastered items, one backward pass each, that the Fisher information is estimated from. Only `ewc`."""
    memory: PositiveInt = 4
    """Mastered gradients kept as constraints, 4 bytes per element each. Only `gem`."""
    margin: Annotated[float, Field(ge=0)] = 0.0
    """Added to each multiplier of the dual problem, as in the paper. Only `gem`."""
    density: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the elements that may move in an update: drawn anew each time by `random_mask`; in `mofo` those of
    largest momentum within each parameter."""


class AdapterConfig(Section):
    """Train a reparametrisation of the linear layers instead of all parameters; merged into the saved model."""

    name: Literal["none", "lora", "osft"] = "none"
    """`lora`: low-rank matrices (by peft); `osft`: each matrix moves only in the orthogonal complement of its leading
    singular directions."""
    rank: PositiveInt = 16
    """Rank of the low-rank matrices. Only `lora`."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """Scale of the low-rank product is alpha / rank. Only `lora`."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Dropout before the low-rank product. Only `lora`."""
    targets: list[str] = []
    """Last names of the linear layers to adapt; empty: every linear layer but the output head."""
    frozen_share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the singular directions of each matrix, the leading ones, that stays fixed. Only `osft`."""


class GuardConfig(Section):
    """Watch whether the mastered loss really falls as first order says, and act where a step breaks it."""

    mode: Literal["off", "monitor", "adapt", "rollback"] = "off"
    """`monitor` only measures; `adapt` cuts the rate of a step that raises that loss, by its measured curvature;
    `rollback` undoes such a step and makes it again at a smaller rate. Both keep a copy of the masters."""
    tolerance: Annotated[float, Field(ge=0)] = 0.0
    """Largest increase of the mastered loss in one step, as a share of that loss, that still counts as held; float32
    losses are rounded by about 1e-6."""
    shrink: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Factor on the rate of a step that is made again. Only `rollback`."""
    max_retries: PositiveInt = 4
    """Times a step is made again before it is left out. Only `adapt` and `rollback`."""
