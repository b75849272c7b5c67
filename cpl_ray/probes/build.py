"""Which probe a job means."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cpl_ray.config import Config
from cpl_ray.probes.base import Probe
from cpl_ray.probes.classes import ClassesProbe, FixedMaskProbe
from cpl_ray.probes.similarity import SimilarityProbe
from cpl_ray.probes.stability import StabilityProbe
from cpl_ray.probes.taylor import TaylorProbe

PROBES: dict[str, Callable[[Config, Path, Mapping[str, Any]], Probe]] = {
    "classes": lambda config, folder, job: ClassesProbe(folder, every=config.study.every),
    "fixed_mask": lambda config, folder, job: FixedMaskProbe(
        folder, mask=Path(job["mask"]), shuffle_seed=config.train.seed if job.get("shuffle") else None
    ),
    "similarity": lambda config, folder, job: SimilarityProbe(folder, every=config.study.every, items=job["items"]),
    "stability": lambda config, folder, job: StabilityProbe(folder, window=config.study.window),
    "taylor": lambda config, folder, job: TaylorProbe(folder, every=config.study.every, rates=job["rates"]),
}


def build_probe(config: Config, job: Mapping[str, Any]) -> Probe:
    """Return the probe that `job` names, with the settings in it and those of `study`.

    Args:
        config: the run.
        job: `name`, `folder` (absolute, shared by all nodes) and what the probe needs besides.
    """
    return PROBES[job["name"]](config, Path(job["folder"]), job)
