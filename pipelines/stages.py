"""The stages of a run, as the verbs call them: each takes the configuration, the run folder and a way to say things."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from cpl_ray.config import Config
from cpl_ray.digest import items_digest, model_digest
from cpl_ray.environment import snapshot
from cpl_ray.errors import ConfigError, UserError
from cpl_ray.loading import load_config
from cpl_ray.model_source import local_source
from cpl_ray.order import ItemOrder
from cpl_ray.resume import check_same_job
from cpl_ray.rundir import RunDir, atomic_write_text
from cpl_ray.schedule import planned_updates
from cpl_ray.stopwatch import Stopwatch, carve, measured, phase
from cpl_ray.tracking import Tracker
from pipelines.assessing import adopt_assessment, assess_items, encoder_of
from pipelines.console import Say
from pipelines.interrupts import signalled
from pipelines.progress import training_progress
from pipelines.session import one_ray_session, ray_session
from pipelines.timing import say_timing


def run(config: Config, run: RunDir, say: Say, *, started: float | None = None) -> dict[str, Any]:
    """Assess, train, evaluate, register; with `gate` also judge. On resume finished stages are not done again.

    `started`: when the command began, on the clock of `time.monotonic`; None: now.
    """
    watch = Stopwatch("start, imports, tracking", time.monotonic() if started is None else started)
    _check_resume(config, run, trains=not run.model.exists())
    outcome: dict[str, Any] = {}
    with measured(watch):
        with one_ray_session(), tracked(config, run) as tracker:
            for name, rest, done, stage in (
                ("assess", "assess: read and write", run.assessment, assess),
                ("train", "train: read and tokenise", run.model, train),
                ("evaluate", "evaluate: ledger, pictures, report", run.result, evaluate),
            ):
                if config.run.resume and done.exists():
                    say(f"{name}: done before")
                    continue
                with phase(rest):
                    stage(config, run, say, tracker)
        for name, wanted, last in (("register", config.tracking.enabled, register), ("promote", config.gate, promote)):
            if wanted:
                with phase(name):
                    outcome |= last(config, run, say)
    return _result(run) | outcome | {"timing": say_timing(watch, run, say)}


def assess(config: Config, run: RunDir, say: Say, tracker: Tracker | None = None) -> dict[str, Any]:
    """Find what the base model has mastered, or take over the assessment that `data.assessment` names."""
    config = prepared(config, run)
    manifest = adopt_assessment(config, run, say) if config.data.assessment else assess_items(config, run, say)
    if tracker is not None:
        tracker.log_datasets(manifest, run.root)
    return {"assessment": {"scorer": manifest["scorer"], "counts": manifest["counts"]}}


def train(
    config: Config,
    run: RunDir,
    say: Say,
    tracker: Tracker | None = None,
    *,
    callbacks: Sequence[Any] = (),
    probe: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train on the run's assessment, or on brought sets (which are scored first if evaluations need it).

    `callbacks` of Ray Train are told of every evaluation; `probe` is measured inside the loop (probes/build.py).
    """
    from cpl_ray.assessment import read_assessment
    from cpl_ray.subset import with_mastered_size
    from cpl_ray.trainer import train as train_on_cluster

    _check_resume(config, run, trains=True)
    config = prepared(config, run)
    ready = run.assessment.exists()
    if not ready and config.data.assessment is None and config.data.mastered is None:
        raise ConfigError(f"{run.root} has no assessment; run `cpl assess` first, or `cpl run` for the whole job")
    with tracked(config, run, tracker) as tracker, one_ray_session():
        if not ready and config.data.assessment:
            adopt_assessment(config, run, say)
        elif not ready:
            assess_items(config, run, say, score=config.evaluate.every is not None)
        assessment = with_mastered_size(read_assessment(run.assessment), config.train.mastered_size, config.split.seed)
        encoder, max_length = encoder_of(config, assessment)
        tracker.follow(run.metrics)
        order = ItemOrder(len(assessment.parts["injection_train"]), config.train.seed)
        steps_per_epoch = order.steps_per_epoch(config.global_batch_size)
        planned = planned_updates(steps_per_epoch, config.train.epochs, config.train.max_steps)
        with (
            ray_session(config, say),
            training_progress(run.metrics, say, planned),
            phase("train: start and end workers"),
        ):
            summary = train_on_cluster(
                config,
                assessment,
                encoder,
                scorer=str(assessment.manifest["scorer"]),
                max_length=max_length,
                run_folder=run.root,
                say=say,
                callbacks=callbacks,
                probe=probe,
            )
            _carve_training(summary)
        tracker.log_params({"deepspeed_config": summary["deepspeed"]})
    took = {"steps": summary["steps"], "train_s": summary["train_s"]}
    say(f"trained {took['steps']} updates in {took['train_s']:.0f} s; model in {run.model}", event="trained", **took)
    if guard := summary["guard"]:
        say(
            f"the mastered loss held in {guard['held']} of {guard['steps']} updates; "
            f"{guard['cut']} were cut, {guard['undone']} left out",
            event="guarded",
            **guard,
        )
    return {"training": summary}


def evaluate(
    config: Config, run: RunDir, say: Say, tracker: Tracker | None = None, *, show: bool = True
) -> dict[str, Any]:
    """Score the trained model on every part; write the ledger, result.json, model card and, with `show`, pictures."""
    from cpl_ray.assessment import read_assessment
    from cpl_ray.card import write_card
    from cpl_ray.costs import training_costs
    from cpl_ray.ledger import build_ledger, summarise, write_ledger
    from cpl_ray.metrics_log import read_records
    from cpl_ray.scoring import score_items
    from cpl_ray.subset import with_mastered_size
    from pipelines.inside import measured_inside

    config = prepared(config, run)
    if not (run.model / "config.json").is_file():
        raise UserError(f"there is no trained model in {run.root}; run `cpl train` first")
    digest = model_digest(run.model)
    assessment = with_mastered_size(read_assessment(run.assessment), config.train.mastered_size, config.split.seed)
    if not assessment.scored:
        raise UserError(f"the sets in {run.assessment} were never asked before training; run `cpl assess` first")
    _, max_length = encoder_of(config, assessment)
    items = [row.item for _, row in assessment.rows()]
    scorer = str(assessment.manifest["scorer"])
    with tracked(config, run, tracker) as tracker:
        with ray_session(config, say):
            say(f"asking the trained model {len(items)} items by {scorer}")
            ask = partial(score_items, items, config=config, scorer=scorer, max_length=max_length)
            with phase("evaluate: ask the model"):
                after = ask(model_path=str(run.model))
                inside = measured_inside(run, assessment, after, lambda model: ask(model_path=model))
        ledger = build_ledger(assessment, after)
        write_ledger(run.flips, ledger)
        training = json.loads((run.train / "summary.json").read_text(encoding="utf-8"))
        shown = ("collaborative_share", "moved_against", "flip_rate", "moved_share", "steps", "epochs", "train_s")
        result = {
            "run": run.name,
            "model": config.model,
            "model_digest": digest,
            "rule": config.train.rule,
            "scorer": scorer,
            **summarise(ledger),
            "mastered_size": len(assessment.parts["mastered_train"]),
            "mastered_sha256": items_digest(row.item for row in assessment.parts["mastered_train"]),
            "inside_budget": inside,
            "state_bytes_per_param": training.get("state_bytes_per_param"),
            **training_costs(read_records(run.metrics, "train")),
            **{name: training[name] for name in (*shown, "stopped_at_learned", "num_params", "world_size")},
            "guard": training.get("guard"),  # null: none; summaries of older runs do not say
        }
        if show:
            from cpl_ray.figures import draw_figures

            draw_figures(run.metrics, run.figures)
        write_card(run.model, result, config, assessment.manifest)
        tracker.flush()
        result["tracking"] = {"missing": tracker.missing, "reason": tracker.lost}
        atomic_write_text(run.result, json.dumps(result, indent=2) + "\n")
        tracker.log_metrics(final_metrics(result), step=training["steps"])
        files = [run.config, run.manifest, run.environment, run.result, run.metrics, run.flips, run.figures]
        for path in files + (write_report_of(run, say) if show else []):
            tracker.log_artifacts(path)
    return result


def register(config: Config, run: RunDir, say: Say) -> dict[str, Any]:
    """Add the model to the registry as `candidate`; deliver to MLflow what training could not."""
    from cpl_ray.delivery import deliver
    from cpl_ray.registry import register as register_version

    config = prepared(config, run)
    registered = register_version(config, run.root, deliver(config, run.root))
    say(f"registered {registered.name} version {registered.version}, alias candidate")
    return {"registered": {"name": registered.name, "version": registered.version, "uri": registered.uri}}


def promote(config: Config, run: RunDir, say: Say) -> dict[str, Any]:
    """Judge the registered model; admitted: alias `champion`. The verdict is in the returned `gate`."""
    from cpl_ray.promotion import promote as judge_and_promote
    from pipelines.promoting import measured

    config = prepared(config, run)
    measure = partial(measured, config, run, say) if config.budget.rescore else None
    verdict = judge_and_promote(config, run.root, measure)
    for line in (*verdict.details(), *verdict.warnings):
        say(line)
    write_report_of(run, say)  # again, now with the verdict
    return _result(run) | {"gate": verdict.to_dict()}


def write_report_of(run: RunDir, say: Say) -> list[Path]:
    """Write the run's report. Returns its path; nothing, with a warning, where it fails."""
    from cpl_ray.report import write_report

    try:
        return [write_report(run.root)]
    except Exception as error:  # the run and its numbers are sound, whatever is wrong with showing them
        again = f"`cpl report {run.root}` tries again"
        say(f"warning: no report was written ({type(error).__name__}: {error}); {again}")
        return []


def _carve_training(summary: Mapping[str, Any]) -> None:
    """Tell the stopwatch where the workers' time went."""
    carve("train: load the model, start DeepSpeed", summary["start_s"])
    carve("train: updates", summary["loop_s"]["updates"], model=True)
    carve("train: evaluations", summary["loop_s"]["evaluations"], model=True)
    carve("train: checkpoints", summary["loop_s"]["checkpoints"])
    carve("train: save the model", summary["save_s"])


def _check_resume(config: Config, run: RunDir, *, trains: bool) -> None:
    """Refuse a resume under settings that would change numbers, before Ray or MLflow is asked for anything."""
    if not config.run.resume:
        return
    from cpl_ray.checkpoint import check_resumable, latest_checkpoint
    from cpl_ray.loop import CHECKPOINTS

    check_same_job(load_config(run.config), config)
    checkpoint = latest_checkpoint(run.root / CHECKPOINTS)
    if checkpoint is not None and trains:
        check_resumable(checkpoint, world_size=config.cluster.num_workers, zero_stage=config.running_zero_stage)


def prepared(config: Config, run: RunDir) -> Config:
    """Record the environment once, and make a local model's path absolute: workers have another working folder."""
    if not run.environment.exists():
        atomic_write_text(run.environment, json.dumps(snapshot(), indent=2) + "\n")
    folder = local_source(config.model)
    return config if folder is None else config.model_copy(update={"model": str(folder)})


def _result(run: RunDir) -> dict[str, Any]:
    return json.loads(run.result.read_text(encoding="utf-8"))


def final_metrics(result: dict[str, Any]) -> dict[str, float]:
    rates = {
        "final/learned": result["learned"],
        "final/learned_held_out": result["learned_held_out"],
        **{f"final/forgotten_{name}": rate for name, rate in result["forgotten"].items()},
    }
    metrics = {name: float(rate["count"]) for name, rate in rates.items() if rate is not None}
    metrics |= {f"{name}_share": rate["share"] for name, rate in rates.items() if rate and rate["share"] is not None}
    for name in ("collaborative_share", "moved_against"):
        if result[name] is not None:
            metrics[f"final/{name}"] = float(result[name])
    return metrics


@contextmanager
def tracked(config: Config, run: RunDir, tracker: Tracker | None = None) -> Iterator[Tracker]:
    """Hold the run's tracker: the caller's, or a new one on the run's MLflow run, closed truthfully at the end."""
    if tracker is not None:
        yield tracker
        return
    tracker = Tracker.open(config, run.root, resume=run.tracking.exists())
    tracker.log_params(config.model_dump())
    try:
        yield tracker
    except BaseException as error:
        tracker.finish("KILLED" if signalled(error) else "FAILED")
        raise
    tracker.finish()
