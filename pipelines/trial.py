"""One trial of a sweep or comparison, in a process of its own: an ordinary run on its assessment.

It does not talk to MLflow: the driver does, and so also knows of trials that were stopped.
"""

import shutil
import sys
import time
from pathlib import Path
from typing import Any

from cpl_ray.config import Config
from cpl_ray.errors import ConfigError
from cpl_ray.inside_budget import INSIDE_BUDGET
from cpl_ray.lock import release
from cpl_ray.rundir import RunDir
from cpl_ray.trial_book import trial_config
from cpl_ray.trials import Trial, read_book

_LOCK_WAIT_S = 60.0


def run_trial(job: dict[str, Any], book: str, index: int) -> None:
    """Do the trial with number `index` of a book; what a broken attempt has done is kept.

    Args:
        job: the configuration of the sweep or comparison, with absolute paths, as a dict.
        book: the book's page, `sweep.json` or `compare.json`, in the folder of the job.
        index: number of the trial there.
    """
    from cpl_ray.search import ScoreCallback
    from pipelines.assessing import adopt_assessment
    from pipelines.stages import evaluate, train

    base = Config.model_validate(job)
    trial = Trial.from_dict(read_book(Path(book))["trials"][index])
    run, config = _entered(trial_config(Path(book).parent, base, trial))
    try:
        quiet = config.model_copy(update={"tracking": config.tracking.model_copy(update={"enabled": False})})
        if not run.assessment.exists():
            adopt_assessment(quiet, run, _say)
        if not run.model.exists():
            callbacks = [ScoreCallback(base.budget.max_forgetting)] if base.evaluate.every is not None else []
            train(quiet, run, _say, callbacks=callbacks)
        if not run.result.exists():
            evaluate(quiet, run, _say, show=False)  # `cpl report` makes the pictures of the trials one wants
        for scratch in (run.train / "checkpoints", run.train / "ray", run.root / INSIDE_BUDGET):
            shutil.rmtree(scratch, ignore_errors=True)
    finally:
        release(run.root)


def _entered(config: Config) -> tuple[RunDir, Config]:
    """Enter the trial's run folder, once the processes of a broken attempt are gone."""
    config = config.model_copy(update={"run": config.run.model_copy(update={"resume": True})})
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            run = RunDir.create(config)
        except ConfigError as error:
            if "in use" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return run, run.named(config)


def _say(message: str, **event: Any) -> None:
    print(message, file=sys.stderr, flush=True)
