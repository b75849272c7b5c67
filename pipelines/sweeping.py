"""The sweep stage: one assessment, many trials, a choice."""

from typing import Any

from cpl_ray.config import Config
from cpl_ray.config_run import SearchConfig
from cpl_ray.errors import DataError, ResumeError, UserError
from cpl_ray.loading import dump_config, load_config
from cpl_ray.resume import check_same_job
from cpl_ray.rundir import RunDir, atomic_write_text
from cpl_ray.space import with_point
from cpl_ray.sweep_book import SweepBook
from cpl_ray.tracking import Tracker
from cpl_ray.trials import Trial, as_csv
from pipelines.console import Say
from pipelines.session import ray_session
from pipelines.stages import assess, prepared, tracked, write_report_of
from pipelines.trial_job import run_book, with_tracking_address

_BEST_HEAD = """\
# The choice of the sweep {name}: {reason}
# cpl run {path} run.name=NAME
"""


def sweep(config: Config, run: RunDir, say: Say) -> dict[str, Any]:
    """Try the points of `search.space` on one assessment; choose by M validation; write best.yaml, figures, report.

    Returns:
        The content of sweep.json, and `best_config`, the path of best.yaml (None where no point is inside the budget).

    Raises:
        ConfigError: the search space is not usable, or more trials at once are asked for than fit.
        ResumeError: the sweep to be continued was another one.
        DataError: a choice would need M validation, and there is none.
        UserError: every trial failed.
    """
    if config.run.resume:
        _check_resume(load_config(run.config), config)
    from cpl_ray.search import concurrency_of

    config = with_tracking_address(prepared(config, run), run)
    with tracked(config, run) as tracker, ray_session(config, say, dashboard=True):
        concurrency = concurrency_of(config, config.search.max_concurrent_trials, "search.max_concurrent_trials")
        if not run.assessment.exists():
            assess(config, run, say, tracker)
        _check_validation(config, run)
        book = SweepBook(run.root, config, concurrency=concurrency, resume=config.run.resume)
        run_book(book, tracker, say, concurrency)
        content = book.conclude("finished")
        if not any(trial.state in ("finished", "stopped") for trial in book.trials):
            raise UserError(f"every trial failed; the first: {book.trials[0].error}. sweep.json has the others")
        return _conclude(config, run, content, tracker, say)


def _conclude(config: Config, run: RunDir, content: dict[str, Any], tracker: Tracker, say: Say) -> dict[str, Any]:
    """Write best.yaml and the figures, and hand everything to MLflow."""
    from cpl_ray.sweep_figures import draw_sweep

    path = run.root / "best.yaml"
    best = content["best"]
    if best is None:
        path.unlink(missing_ok=True)
    else:
        point = next(one for one in content["points"] if one["point_id"] == best["point_id"])
        atomic_write_text(path, _best_config(config, run, point["point"], best["reason"]))
        rates = {"learned": point["learned"], **{f"forgotten_{k}": v for k, v in point["forgotten"].items()}}
        tracker.log_metrics({f"best/{name}_share": r["share"] for name, r in rates.items() if r["of"]}, step=0)
    draw_sweep(content, run.figures)
    table = run.root / "trials.csv"
    atomic_write_text(table, as_csv([Trial.from_dict(trial) for trial in content["trials"]]))
    finished = sum(trial["state"] == "finished" for trial in content["trials"])
    tracker.log_metrics({"sweep/trials": len(content["trials"]), "sweep/finished": finished}, step=0)
    files = [run.config, run.manifest, run.environment, run.root / "sweep.json", table, path, run.figures]
    for artifact in files + write_report_of(run, say):
        tracker.log_artifacts(artifact)
    return {**content, "best_config": str(path) if best is not None else None}


def _best_config(config: Config, run: RunDir, point: dict[str, Any], reason: str) -> str:
    chosen = with_point(config, point)
    seed = (config.search.seeds or [config.train.seed])[0]
    chosen = chosen.model_copy(
        update={
            "train": chosen.train.model_copy(update={"seed": seed}),
            "data": chosen.data.model_copy(update={"assessment": str(run.root)}),
            "run": chosen.run.model_copy(update={"name": None, "resume": False, "overwrite": False}),
            "search": SearchConfig(),
        }
    )
    return _BEST_HEAD.format(name=run.name, reason=reason, path=run.root / "best.yaml") + dump_config(chosen)


def _check_validation(config: Config, run: RunDir) -> None:
    from cpl_ray.assessment import read_assessment

    parts = read_assessment(run.assessment).manifest["parts"]
    if not parts["mastered_validation"]["denominator"] and config.train.rule != "none":
        raise DataError(
            "M validation is empty, so no trial can be chosen by what it forgets; set split.mastered_validation "
            "above 0 (brought sets have no validation part: give data.items)"
        )


def _check_resume(saved: Config, asked: Config) -> None:
    """Refuse to continue a sweep with settings that would change its points or its trials."""
    check_same_job(saved, asked)
    free = {"trials", "max_concurrent_trials"}
    before, now = saved.search.model_dump(exclude=free), asked.search.model_dump(exclude=free)
    if different := [f"search.{key} was {before[key]!r}, now {now[key]!r}" for key in now if before[key] != now[key]]:
        raise ResumeError(f"run.resume: {'; '.join(different)}. A resumed sweep keeps its settings")
