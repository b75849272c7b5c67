"""The section of the configuration about `cpl compare`: which methods meet, at which rates and seeds."""

from typing import Annotated, Any

from pydantic import Field

from cpl_ray.config_types import Processes, Section, Seed

Rate = Annotated[float, Field(gt=0)]


class CompareConfig(Section):
    """What `cpl compare` compares. No effect on other verbs."""

    methods: list[str | dict[str, dict[str, Any]]] = [
        "cpl",
        "cpl_ema",
        "fine_tuning",
        "replay",
        "l2sp",
        "ewc",
        "agem",
        "pcgrad",
        "random_mask",
        "lora",
    ]
    """Methods by name (docs/compare.md lists them), or as `name: {key: value}` with settings of their own: those of a
    listed name are added to it, another name is a method of yours."""
    rates: list[Rate] = [1e-5, 3e-5, 1e-4, 3e-4]
    """Values of `optimizer.lr` that every method is tuned over, by M validation."""
    method_rates: dict[str, list[Rate]] = {}
    """Other rates for single methods, e.g. `lora: [1e-3, 3e-3]`; the table says so."""
    seeds: list[Seed] = []
    """Training seeds: rates are tuned with the first, the chosen rate is run with all; empty: `train.seed` alone."""
    max_concurrent_trials: Processes | None = None
    """Trials at once; null: as many as the cluster has room for."""
