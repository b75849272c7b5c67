"""What a study is, and what it works with: one assessment, and ordinary runs in a folder of its own."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpl_ray.config import Config
from cpl_ray.config_run import SearchConfig
from cpl_ray.lock import release
from cpl_ray.rundir import RunDir
from cpl_ray.space import with_point
from cpl_ray.studies.findings import Findings
from pipelines.console import Say

RUNS = "runs"
PROBED = "probe"


@dataclass(frozen=True)
class Bench:
    """Where a study works."""

    config: Config
    """With absolute paths."""
    run: RunDir
    """The study's folder, which holds the assessment."""
    say: Say

    def trained(
        self,
        label: str,
        changes: Mapping[str, Any],
        *,
        probe: Mapping[str, Any] | None = None,
        evaluated: bool = False,
        assessed: bool = False,
        keep_model: bool = True,
    ) -> RunDir:
        """Train an ordinary run on the study's assessment in `runs/LABEL`; one that is done is not done again.

        Args:
            label: name of the run's folder.
            changes: keys that differ from the study's configuration, by dotted name.
            probe: name and settings of what is measured inside the loop; its tables lie in `probe/` of that folder.
            evaluated: measure also what was learned and forgotten.
            assessed: give the run an assessment of its own, as another model needs.
            keep_model: False: delete the weights once they are evaluated; a grid would fill the disk.
        """
        from pipelines.stages import assess, evaluate, train

        base = with_point(self.config, {"train.checkpoint_every": None, **changes})
        place = {"name": label, "dir": str(self.run.root / RUNS), "overwrite": False}
        there = (self.run.root / RUNS / label / "config.yaml").exists()
        own = None if assessed else base.data.assessment or str(self.run.root)
        config = base.model_copy(
            update={
                "run": base.run.model_copy(update={**place, "resume": there}),
                "data": base.data.model_copy(update={"assessment": own}),
                "search": SearchConfig(),
                "tracking": base.tracking.model_copy(update={"enabled": False}),
                "gate": False,
            }
        )
        run = RunDir.create(config)
        try:
            if assessed and not run.assessment.exists():
                assess(config, run, self.say)
            if not run.model.exists() and not run.result.exists():
                self.say(f"run {label}: {', '.join(f'{key}={value}' for key, value in changes.items()) or 'as it is'}")
                job = None if probe is None else {**probe, "folder": str(run.root / PROBED)}
                train(config, run, self.say, probe=job)
            if evaluated and not run.result.exists():
                evaluate(config, run, self.say, show=False)
            if not keep_model and run.result.exists():
                shutil.rmtree(run.model, ignore_errors=True)
            shutil.rmtree(run.train / "ray", ignore_errors=True)
        finally:
            release(run.root)
        return run


Draw = Callable[[Findings, Path], list[Path]]


def nothing_to_check(config: Config) -> None:
    """Accept every configuration."""


@dataclass(frozen=True)
class Study:
    """A question that is answered by measuring."""

    name: str
    line: str
    """What it asks, for `cpl study --help`."""
    conduct: Callable[[Bench], Findings]
    """Makes the runs and computes what they show."""
    draw: Callable[[], Draw]
    """Returns what draws the figures into a folder (imported only then)."""
    check: Callable[[Config], None] = nothing_to_check
    """Raises ConfigError where the settings leave nothing to measure, before anything is asked or trained."""
