"""The comparison stage: one assessment, every method tuned, tables and figures."""

from typing import Any

from cpl_ray.compare_book import CompareBook
from cpl_ray.compare_text import as_csv, as_markdown
from cpl_ray.config import Config
from cpl_ray.config_run import SearchConfig
from cpl_ray.contenders import contenders
from cpl_ray.errors import ConfigError, ResumeError, UserError
from cpl_ray.loading import load_config
from cpl_ray.resume import check_same_job
from cpl_ray.rundir import RunDir, atomic_write_text
from cpl_ray.tracking import Tracker
from cpl_ray.trials import Trial
from cpl_ray.trials import as_csv as trials_as_csv
from pipelines.console import Say
from pipelines.session import ray_session
from pipelines.stages import assess, prepared, tracked, write_report_of
from pipelines.trial_job import run_book, with_tracking_address

_FIXED = ("methods", "rates", "method_rates", "seeds")


def compare(config: Config, run: RunDir, say: Say) -> dict[str, Any]:
    """Run every method of `compare.methods` over its rates and seeds on one assessment; write tables and figures.

    Returns:
        The content of compare.json, and `table`, the path of compare.md.

    Raises:
        ConfigError: a method is not usable, there is no M validation, or more trials at once are asked for than fit.
        ResumeError: the comparison to be continued was another one.
        UserError: every trial failed.
    """
    if config.run.resume:
        _check_resume(load_config(run.config), config)
    from cpl_ray.search import concurrency_of

    contenders(config)
    config = with_tracking_address(prepared(config, run), run)
    with tracked(config, run) as tracker, ray_session(config, say, dashboard=True):
        asked = config.compare.max_concurrent_trials
        concurrency = concurrency_of(config, asked, "compare.max_concurrent_trials")
        if not run.assessment.exists():
            assess(config, run, say, tracker)
        _check_validation(run)
        kept = {"train": config.train.model_copy(update={"keep_inside_budget": True}), "search": SearchConfig()}
        book = CompareBook(run.root, config.model_copy(update=kept), resume=config.run.resume)
        run_book(book, tracker, say, concurrency)
        content = book.conclude("finished")
        if not any(trial.state == "finished" for trial in book.trials):
            raise UserError(f"every trial failed; the first: {book.trials[0].error}. compare.json has the others")
        return _conclude(run, content, tracker, say)


def _conclude(run: RunDir, content: dict[str, Any], tracker: Tracker, say: Say) -> dict[str, Any]:
    """Write tables and figures, and hand everything to MLflow."""
    from cpl_ray.compare_figures import draw_comparison

    trials = run.root / "trials.csv"
    atomic_write_text(trials, trials_as_csv([Trial.from_dict(trial) for trial in content["trials"]]))
    table, text = run.root / "table.csv", run.root / "compare.md"
    atomic_write_text(table, as_csv(content))
    atomic_write_text(text, as_markdown(content))
    draw_comparison(content, run.root)
    finished = sum(trial["state"] == "finished" for trial in content["trials"])
    metrics = {"compare/trials": float(len(content["trials"])), "compare/finished": float(finished)}
    for row in content["methods"]:
        for kind, name in (("at_target", "at_target"), ("inside", "inside_budget")):
            if row[kind] is not None:
                rates = {"learned": row[kind]["learned"], "forgotten_held_out": row[kind]["forgotten"]["held_out"]}
                metrics |= {f"{name}/{row['method']}/{k}_share": r["share"] for k, r in rates.items() if r["of"]}
    tracker.log_metrics(metrics, step=0)
    files = [run.config, run.manifest, run.environment, run.root / "compare.json", trials, table, text, run.figures]
    for artifact in files + write_report_of(run, say):
        tracker.log_artifacts(artifact)
    return {**content, "table": str(text)}


def _check_validation(run: RunDir) -> None:
    from cpl_ray.assessment import read_assessment

    if not read_assessment(run.assessment).manifest["parts"]["mastered_validation"]["denominator"]:
        raise ConfigError(
            "M validation is empty, so no rate can be chosen; set split.mastered_validation above 0 (brought sets "
            "have no validation part: give data.items)"
        )


def _check_resume(saved: Config, asked: Config) -> None:
    """Refuse to continue a comparison with settings that would change its trials, its choices or its tables."""
    check_same_job(saved, asked)
    pairs = [(f"compare.{key}", saved.compare.__dict__[key], asked.compare.__dict__[key]) for key in _FIXED]
    pairs.append(("budget.max_forgetting", saved.budget.max_forgetting, asked.budget.max_forgetting))
    if different := [f"{key} was {before!r}, now {now!r}" for key, before, now in pairs if before != now]:
        raise ResumeError(f"run.resume: {'; '.join(different)}. A resumed comparison keeps its settings")
