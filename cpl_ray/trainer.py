"""The driver's side of a training run: streams, Ray Train, and how a failure comes back."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.data import ExecutionOptions
from ray.train import UserCallback
from ray.train.torch import TorchTrainer

from cpl_ray import errors
from cpl_ray.assessment import Assessment, in_denominator
from cpl_ray.checkpoint import CHECKPOINTS, check_resumable, latest_checkpoint
from cpl_ray.config import Config
from cpl_ray.encoding import Encoder
from cpl_ray.errors import ClusterError, DataError, UserError
from cpl_ray.losses import lost
from cpl_ray.measures import COUNTS
from cpl_ray.network import AcrossNodes
from cpl_ray.run_log import LOGS, Place, event, logged
from cpl_ray.rundir import atomic_write_text
from cpl_ray.shared_storage import Mark, marked
from cpl_ray.streams import encoded_stream, scored_stream
from cpl_ray.worker import train_worker

FAILURE = Path("train", "failure.txt")
SHOWN_CHARACTERS = 200
_log = logging.getLogger(__name__)
POLL_S = "0.3"  # how often the controller looks at its workers; Ray's 2 s are felt at the end of every short run


def train(
    config: Config,
    assessment: Assessment,
    encoder: Encoder,
    *,
    scorer: str,
    max_length: int,
    run_folder: Path,
    say: Callable[[str], None],
    callbacks: Sequence[UserCallback] = (),
    probe: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train on the assessment's training parts and return the run's summary.

    Ray must be initialised. The newest checkpoint in the run folder is continued if there is one.

    Args:
        config: the run; `model` must be visible to every node.
        assessment: its parts `mastered_train` and `injection_train` are trained on.
        encoder: tokenises items for training.
        scorer: resolved scorer of evaluations during training.
        max_length: longest item in tokens.
        run_folder: absolute; shared by all nodes.
        say: prints progress.
        callbacks: are told of every evaluation (Ray Train's `after_report`).
        probe: what is measured inside the loop (probes/build.py); it may look at M train whatever the rule.

    Raises:
        ConfigError: a worker lies on a node that does not share the run folder.
        DataError: a training part is empty.
        ResumeError: the newest checkpoint does not fit this run.
        NonFiniteError: a loss or gradient was not finite.
        UserError: the workers failed more often than `cluster.max_failures`; ClusterError if Ray lost them each time.
        KeyboardInterrupt: Ctrl-C; the workers are ended.
    """
    checkpoint = latest_checkpoint(run_folder / CHECKPOINTS)
    if checkpoint is not None:
        check_resumable(checkpoint, world_size=config.cluster.num_workers, zero_stage=config.running_zero_stage)
        say(f"resuming after update {checkpoint.step}")
    datasets: dict[str, Any] = {"injection": _stream(assessment, encoder, "injection")}
    if config.mastered_passes != "none" or probe is not None:
        datasets["mastered"] = _stream(assessment, encoder, "mastered")
    asked = [part for part in COUNTS if config.evaluate.in_set or part != "mastered_train"]
    counted = {part: [r for r in assessment.parts[part] if in_denominator(part, r.before)] for part in asked}
    if config.evaluate.every is not None and any(counted.values()):
        datasets["evaluation"] = scored_stream(counted)
    mark = Mark.of(run_folder / "train")
    job = {
        "name": f"attempt-{time.time_ns()}",
        "config": config.model_dump(),
        "run_folder": str(run_folder),
        "scorer": scorer,
        "max_length": max_length,
        "num_rows": {name: dataset.count() for name, dataset in datasets.items()},
        "probe": None if probe is None else dict(probe),
        "mark": asdict(mark),
    }
    for dataset in datasets.values():  # one progress display is enough, and the driver has it
        dataset.context.enable_progress_bars = False
        dataset.context.enable_operator_progress_bars = False
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", POLL_S)
    for name in ("ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ray.data.exceptions").setLevel(logging.CRITICAL)  # logs a traceback of what it raises as well
    cluster = config.cluster
    resources = {"CPU": cluster.cpus_per_worker, **({"GPU": 1} if cluster.use_gpu else {})}
    make_run_config: Callable[..., Any] = ray.train.RunConfig  # its types are those of Train V1
    worker: Callable[..., Any] = train_worker  # Ray types it as returning nothing, yet hands the result back
    trainer = TorchTrainer(
        worker,
        train_loop_config=job,
        torch_config=AcrossNodes(backend="nccl" if cluster.use_gpu else "gloo", timeout_s=cluster.timeout_s),
        scaling_config=ray.train.ScalingConfig(
            num_workers=cluster.num_workers, use_gpu=cluster.use_gpu, resources_per_worker=resources
        ),
        run_config=make_run_config(
            name=job["name"],
            storage_path=str(run_folder / "train" / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=cluster.max_failures),
            logging_config=ray.train.LoggingConfig("WARNING"),
            callbacks=list(callbacks) or None,
        ),
        datasets=datasets,
        # every worker reads the whole stream and takes its slice of each global batch
        dataset_config=ray.train.DataConfig(
            datasets_to_split=[], execution_options=ExecutionOptions(preserve_order=True)
        ),
    )
    about = {"workers": cluster.num_workers, "resources": resources, "rows": job["num_rows"]}
    with logged(run_folder, Place(run_folder.name, step=checkpoint.step if checkpoint is not None else 0)):
        _log.info("training is handed to Ray", extra=event("submitted", zero_stage=config.running_zero_stage, **about))
        try:
            with marked(mark):
                summary = _fit(trainer, run_folder)
        except BaseException as error:  # only told, Ctrl-C too
            _log.error(f"{type(error).__name__}: {error}", extra=event("failed"))
            raise
        _log.info(f"training ended after update {summary['steps']}", extra=event("ended", updates=summary["steps"]))
    return summary


def _fit(trainer: TorchTrainer, run_folder: Path) -> dict[str, Any]:
    try:
        with _interruptible():
            result: Any = trainer.fit()
    except ray.train.TrainingFailedError as error:
        told = _failure(error, run_folder / FAILURE)
        causes = error.worker_failures.values() if isinstance(error, ray.train.WorkerGroupError) else [error]
        raise (ClusterError if all(map(lost, causes)) else UserError)(told) from error
    summary = result.return_value
    if not isinstance(summary, dict):
        raise UserError(f"training ended without a result; the workers' logs are in {run_folder / LOGS}")
    if "error" in summary:
        kind, message = summary["error"]
        raise getattr(errors, kind)(message)
    return summary


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C be a KeyboardInterrupt: Ray Train takes SIGINT over, ends the workers and then leaves the program."""
    if threading.current_thread() is not threading.main_thread():  # of a trial, say: signals are none of its business
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, before)


def _failure(error: ray.train.TrainingFailedError, path: Path) -> str:
    """Write all that Ray knows of a failed training to `path`; return what each worker raised, in one line."""
    try:
        atomic_write_text(path, f"{error}\n")
        more = f"All that is known of it is in {path}"
    except OSError as hindered:  # the run folder may be the very thing that failed
        more = f"{path} could not be written ({hindered.strerror})"
    failures = error.worker_failures if isinstance(error, ray.train.WorkerGroupError) else {}
    raised = {f" on worker {rank}": cause for rank, cause in sorted(failures.items())} or {"": error}
    lines = []
    for where, cause in raised.items():
        text = [line.strip() for line in str(cause).splitlines() if line.strip()]
        lines.append(f"{where}: {type(cause).__name__}{f' ({text[-1][:SHOWN_CHARACTERS]})' if text else ''}")
    return f"training failed{';'.join(lines)}. {more}"


def _stream(assessment: Assessment, encoder: Encoder, side: str) -> ray.data.Dataset:
    rows = assessment.parts[f"{side}_train"]
    if not rows:
        raise DataError(f"the {side} set is empty; nothing can be trained on it")
    return encoded_stream([row.item for row in rows], encoder, side).materialize()
