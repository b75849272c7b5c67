"""Score items on the cluster: a Ray Data actor pool, the model loaded once per actor, errors kept per item."""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyarrow as pa
import ray
import ray.data

from cpl_ray.assessment import Verdict
from cpl_ray.config import Config
from cpl_ray.errors import ConfigError, UserError
from cpl_ray.items import Item
from cpl_ray.model_source import local_source

_BLOCKS_PER_ACTOR = 4
_BATCHES_PER_BLOCK = 4
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("correct", pa.bool_()),
        ("prediction", pa.string()),
        ("margin", pa.float64()),
        ("scores", pa.list_(pa.float64())),
        ("error", pa.string()),
        ("f1", pa.float64()),
        ("fatal", pa.string()),
    ]
)


def score_items(
    items: Sequence[Item],
    *,
    config: Config,
    scorer: str,
    model_path: str,
    max_length: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Verdict]:
    """Score items in parallel and return the verdicts by item id.

    Ray must be initialised. The actors take `cluster.cpus_per_worker` CPUs (and a GPU where `cluster.use_gpu`) each;
    nothing else needs a CPU slot, so a pool as large as the cluster works.

    Args:
        items: what to ask; ids are unique.
        config: gives prompt, batch size, number of actors, compute type and resources.
        scorer: a scorer's name, not `auto`.
        model_path: a local folder that every node sees, or a hub id (then of `model_revision`).
        max_length: longest item in tokens; None: `data.max_length`, or the model's own limit.
        progress: called with (items done, items in all) as blocks come back.

    Raises:
        ConfigError: the model, its tokenizer or the prompt settings cannot be used.
        ValueError: two items have the same id.
    """
    if len({item.id for item in items}) < len(items):
        raise ValueError("items with equal ids cannot be told apart in the results")
    if not items:
        return {}
    # workers have another working folder
    model_path = str(local_source(model_path) or model_path)
    num_actors = min(config.assess.num_actors or config.cluster.num_workers, len(items))
    rows = _block_rows(len(items), num_actors, config.assess.batch_size)
    blocks = _blocks(items, rows)
    # from_items makes blocks here in the driver; from_arrow would start a task, which needs a CPU and a new process
    dataset = ray.data.from_items([{"items": block} for block in blocks], override_num_blocks=len(blocks))
    # one progress display is enough, and the caller has it; the options of other datasets are not touched
    dataset.context.enable_progress_bars = False
    dataset.context.enable_operator_progress_bars = False
    dataset.context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # warns of bars that are off
    scored = dataset.map_batches(
        _ScoringActor,
        fn_constructor_kwargs={
            "config": config.model_dump(),
            "scorer": scorer,
            "model_path": model_path,
            "max_length": max_length,
        },
        batch_size=1,
        batch_format="pyarrow",
        # starts the whole pool at once, yet works with the actors that fit if they do not all fit
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=num_actors, initial_size=num_actors),
        num_cpus=config.cluster.cpus_per_worker,
        num_gpus=1 if config.cluster.use_gpu else 0,
    )
    verdicts: dict[str, Verdict] = {}
    tables: Iterable[Any] = scored.iter_batches(batch_size=None, batch_format="pyarrow")
    for table in tables:
        for row in table.to_pylist():
            if row["fatal"] is not None:
                raise ConfigError(row["fatal"])
            verdicts[row["id"]] = _verdict(row)
        if progress is not None:
            progress(len(verdicts), len(items))
    missing = [item.id for item in items if item.id not in verdicts]
    if missing:
        raise RuntimeError(f"{len(missing)} of {len(items)} items came back without a verdict, e.g. {missing[0]!r}")
    return {item.id: verdicts[item.id] for item in items}


class _ScoringActor:
    """Holds one model and scores blocks of items with it."""

    def __init__(self, config: dict[str, Any], scorer: str, model_path: str, max_length: int | None) -> None:
        """Load model and tokenizer; a failure that the user can act on is kept and reported with the first block."""
        self.fatal: str | None = None
        try:
            self._load(Config.model_validate(config), scorer, model_path, max_length)
        except UserError as error:
            self.fatal = str(error)

    def _load(self, config: Config, scorer: str, model_path: str, max_length: int | None) -> None:
        # imported here: the driver and a head node without these packages never need them
        import torch

        from cpl_ray.model import item_max_length, load_model, load_tokenizer
        from cpl_ray.predict import Scorer
        from cpl_ray.vision import load_vision

        if not config.cluster.use_gpu:
            # every actor would otherwise start a thread for each core of the machine
            torch.set_num_threads(max(1, int(config.cluster.cpus_per_worker)))
        tokenizer = load_tokenizer(config, model_path)
        model = load_model(
            model_path,
            dtype=config.train.dtype,
            revision=config.model_revision,
            trust_remote_code=config.trust_remote_code,
        )
        self.model: torch.nn.Module = model
        if config.cluster.use_gpu:
            self.model.to("cuda")  # type: ignore[arg-type]  # transformers wraps it without types
        limit = max_length or item_max_length(config, model.config, tokenizer)
        self.scorer = Scorer.of(
            config, tokenizer, name=scorer, max_length=limit, vision=load_vision(config, model_path)
        )

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the verdicts on one block of items, or one row that tells why none of any block can be had."""
        if self.fatal is not None:
            return _table([], [self.fatal])
        try:
            items = [Item.from_json(text) for block in batch["items"].to_pylist() for text in block]
            return _table(score_apart(lambda some: self.scorer.score(self.model, some), items), [])
        except UserError as error:
            return _table([], [str(error)])


def score_apart(score: Callable[[list[Item]], list[Verdict]], items: list[Item]) -> list[Verdict]:
    """Score items together, and one by one where that fails, so that a bad one costs only itself."""
    try:
        return score(items)
    except UserError:
        raise
    # whatever a model's code or memory raises; a single item's failure is kept with the item and shown
    except Exception as error:
        if len(items) == 1:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            return [Verdict(items[0].id, correct=False, prediction="", margin=math.nan, error=reason)]
    return [verdict for item in items for verdict in score_apart(score, [item])]


def _block_rows(num_items: int, num_actors: int, batch_size: int) -> int:
    """Return the items per block: full batches where there are many, and always work for every actor."""
    largest = -(-num_items // (_BLOCKS_PER_ACTOR * num_actors))
    return max(min(largest, _BATCHES_PER_BLOCK * batch_size), min(batch_size, -(-num_items // num_actors)))


def _blocks(items: Sequence[Item], rows: int) -> list[list[str]]:
    """Cut items into blocks of similar length, the longest first: little padding, and no long block comes last."""
    texts = sorted((item.to_json() for item in items), key=lambda text: (-len(text), text))
    return [texts[start : start + rows] for start in range(0, len(texts), rows)]


def _table(verdicts: Sequence[Verdict], fatal: Sequence[str]) -> pa.Table:
    rows = [
        {
            "id": verdict.id,
            "correct": verdict.correct,
            "prediction": verdict.prediction,
            "margin": verdict.margin,
            "scores": list(verdict.scores),
            "error": verdict.error,
            "f1": verdict.f1,
            "fatal": None,
        }
        for verdict in verdicts
    ]
    return pa.Table.from_pylist([*rows, *({"fatal": reason} for reason in fatal)], schema=_SCHEMA)


def _verdict(row: dict[str, Any]) -> Verdict:
    return Verdict(
        id=row["id"],
        correct=row["correct"],
        prediction=row["prediction"],
        margin=math.nan if row["margin"] is None else row["margin"],
        scores=tuple(row["scores"] or ()),
        error=row["error"],
        f1=row["f1"],
    )
