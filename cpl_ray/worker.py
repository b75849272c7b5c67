"""What one Ray Train worker does: build model, engine, streams and evaluator, run the loop, save the model."""

import json
import logging
import os
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import ray.train

from cpl_ray.bulk import uncollected
from cpl_ray.config import Config
from cpl_ray.errors import ConfigError, UserError
from cpl_ray.inside_budget import INSIDE_BUDGET
from cpl_ray.items import Item
from cpl_ray.run_log import Place, event, logged
from cpl_ray.rundir import atomic_write_text
from cpl_ray.shared_storage import Mark, problem_here
from cpl_ray.streams import StreamSource, blocks_of

SUMMARY = Path("train", "summary.json")
_log = logging.getLogger(__name__)


def train_worker(job: dict[str, Any]) -> dict[str, Any]:
    """Run on every worker.

    Args:
        job: `config` (the configuration as a dict), `run_folder` (absolute, shared), `scorer`, `max_length` (tokens),
            `num_rows` (rows by stream name), `probe` (probes/build.py; None: none), `mark` (the fields of a
            shared_storage.Mark in the run folder).

    Returns:
        The summary of the run, or `{"error": [class name, message]}` for a failure that no restart would mend: Ray
        would try again otherwise.
    """
    run_folder = Path(job["run_folder"])
    place = Place(run_folder.name, ray.train.get_context().get_world_rank())
    problem = problem_here(Mark(**job["mark"]))
    with logged(run_folder, place) if problem is None else nullcontext():  # nothing is made on storage of its own
        try:
            _agree(problem)
            return _train(job, place)
        except UserError as error:
            _log.error(f"{type(error).__name__}: {error}", extra=event("failed"))
            return {"error": [type(error).__name__, str(error)]}
        except Exception as error:  # only told; Ray decides whether to try again
            _log.error(f"{type(error).__name__}: {error}", extra=event("failed"), exc_info=True)
            raise


def _agree(problem: str | None) -> None:
    """Raise on every worker what one of them found wrong with the run folder, so that none waits for another.

    Raises:
        ConfigError: one found something; names the nodes.
    """
    from ray.train.torch import get_device  # imports torch

    from cpl_ray.collectives import Collectives

    device: Any = get_device()
    if told := dict.fromkeys(text for text in Collectives(device).texts(problem or "") if text):
        raise ConfigError("; ".join(told))


def _train(job: dict[str, Any], place: Place) -> dict[str, Any]:
    config = Config.model_validate(job["config"])
    if config.cluster.use_gpu:
        os.environ.pop("DS_ACCELERATOR", None)  # the driver's: found out anew on this machine
    # imported here: the controller and a head node without these packages import this module too
    with uncollected():
        import torch

        from cpl_ray.adapters import adapt, merged
        from cpl_ray.collectives import Collectives
        from cpl_ray.engine import ZeroEngine
        from cpl_ray.evaluation import Evaluator, ScoredItem
        from cpl_ray.guard import guard_summary
        from cpl_ray.loop import TrainingLoop
        from cpl_ray.model import load_model, load_tokenizer, save_model
        from cpl_ray.predict import Scorer
        from cpl_ray.probes.build import build_probe
        from cpl_ray.state_bytes import state_bytes
        from cpl_ray.vision import load_vision

    run_folder = Path(job["run_folder"])
    started = time.monotonic()
    versions = {"torch": torch.__version__, "ray": ray.__version__}
    _log.info("the worker has started", extra=event("worker", model=config.model, rule=config.train.rule, **versions))
    if not config.cluster.use_gpu:
        torch.set_num_threads(max(1, int(config.cluster.cpus_per_worker)))
    tokenizer, vision = load_tokenizer(config), load_vision(config)
    with uncollected():
        model = load_model(
            config.model,
            dtype=config.train.dtype,
            revision=config.model_revision,
            trust_remote_code=config.trust_remote_code,
        )
    model_params = sum(param.numel() for param in model.parameters())
    adapt(model, config.adapter, seed=config.train.seed, device="cuda" if config.cluster.use_gpu else "cpu")
    if config.train.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    engine = ZeroEngine(model, config)
    window = config.data.shuffle_window
    sources = {
        name: StreamSource(blocks_of(ray.train.get_dataset_shard(name)), job["num_rows"][name], window)
        for name in ("injection", "mastered")
        if name in job["num_rows"]
    }
    evaluate = None
    if job["num_rows"].get("evaluation"):
        scorer = Scorer.of(config, tokenizer, name=job["scorer"], max_length=job["max_length"], vision=vision)
        items = [
            ScoredItem(Item.from_json(row["item"]), row["part"], row["correct_before"])
            for block in blocks_of(ray.train.get_dataset_shard("evaluation"))()
            for row in block.to_pylist()
        ]
        evaluator = Evaluator(items, scorer, Collectives(engine.device))
        evaluate = lambda: evaluator.run(engine.module)  # noqa: E731

    def save(folder: Path) -> None:
        weights = engine.state_dict()  # all ranks take part
        if torch.distributed.get_rank() == 0:
            beside = tokenizer if vision is None else vision.processor
            save_model(model, beside, folder, state_dict=merged(model, config.adapter, weights))

    loop = TrainingLoop(
        config,
        engine,
        sources["injection"],
        sources.get("mastered"),
        pad_id=0,  # masked everywhere; a tokenizer may have no pad token, or one beyond the embedding
        vision=vision,
        evaluate=evaluate,
        run_folder=run_folder,
        zero_stage=engine.stage,
        keep=(lambda: save(run_folder / INSIDE_BUDGET)) if config.train.keep_inside_budget else None,
        report=ray.train.report,
        probe=build_probe(config, job["probe"]) if job.get("probe") else None,
        place=place,
        job=job["name"],
    )
    ready = time.monotonic()
    state = loop.run()
    kept_bytes = loop.comm.sum([float(state_bytes(engine.optimizer))])[0] / engine.replicas
    summary: dict[str, Any] = {
        "steps": state.step,
        "epochs": state.step / loop.steps_per_epoch,
        "captures": state.captures,
        "stopped_at_learned": state.stopped,
        "moved_against": int(state.moved_against),
        "collaborative_share": state.mean("collaborative_share"),
        "flip_rate": state.mean("flip_rate"),
        "moved_share": state.mean("moved_share"),
        "guard": guard_summary(config.guard.mode, state.guard),
        "last_evaluation": state.last_evaluation,
        "inside_budget": state.inside_budget or None,
        "state_bytes_per_param": kept_bytes / model_params,
        "num_params": engine.num_params,
        "world_size": loop.comm.world_size,
        "start_s": ready - started,
        "train_s": time.monotonic() - ready,
        "loop_s": state.seconds,
        "deepspeed": engine.config,
    }
    saving = time.monotonic()
    save(run_folder / "model")
    summary["save_s"] = time.monotonic() - saving
    if loop.comm.rank == 0:
        atomic_write_text(run_folder / SUMMARY, json.dumps(summary, indent=1))
        _log.info("model and summary are written", extra=event("saved", train_s=summary["train_s"]))
    loop.comm.barrier()
    return summary
