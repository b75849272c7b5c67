"""Score items on the cluster, in blocks of similar length; errors are kept per item."""

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import pyarrow as pa

from cpl_ray.actor_pool import Loaded, Work, apart, on_actors
from cpl_ray.assessment import Verdict
from cpl_ray.config import Config
from cpl_ray.items import Item

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

    Ray must be initialised; see `on_actors`.

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
    num_actors = min(config.assess.num_actors or config.cluster.num_workers, len(items))
    blocks = _blocks(items, _block_rows(len(items), num_actors, config.assess.batch_size))
    verdicts: dict[str, Verdict] = {}
    made = on_actors(
        blocks,
        scoring,
        {"scorer": scorer},
        schema=_SCHEMA,
        config=config,
        model_path=model_path,
        num_actors=num_actors,
        max_length=max_length,
    )
    with closing(made):
        for rows in made:
            verdicts |= {row["id"]: _verdict(row) for row in rows}
            if progress is not None:
                progress(len(verdicts), len(items))
    missing = [item.id for item in items if item.id not in verdicts]
    if missing:
        raise RuntimeError(f"{len(missing)} of {len(items)} items came back without a verdict, e.g. {missing[0]!r}")
    return {item.id: verdicts[item.id] for item in items}


def scoring(loaded: Loaded, *, scorer: str) -> Work:
    """Return the work of one actor: items as JSON in, verdicts as rows out."""
    from cpl_ray.predict import Scorer  # needs torch, as only the actors must

    asker = Scorer.of(loaded.config, loaded.tokenizer, name=scorer, max_length=loaded.max_length, vision=loaded.vision)

    def work(texts: list[str]) -> list[dict[str, Any]]:
        items = [Item.from_json(text) for text in texts]
        return [_as_row(verdict) for verdict in score_apart(lambda some: asker.score(loaded.model, some), items)]

    return work


def score_apart(score: Callable[[list[Item]], list[Verdict]], items: list[Item]) -> list[Verdict]:
    """Score items together, and one by one where that fails, so that a bad one costs only itself."""
    return apart(score, items, lambda item, reason: Verdict(item.id, False, "", math.nan, error=reason))


def _block_rows(num_items: int, num_actors: int, batch_size: int) -> int:
    """Return the items per block: full batches where there are many, and always work for every actor."""
    largest = -(-num_items // (_BLOCKS_PER_ACTOR * num_actors))
    return max(min(largest, _BATCHES_PER_BLOCK * batch_size), min(batch_size, -(-num_items // num_actors)))


def _blocks(items: Sequence[Item], rows: int) -> list[list[str]]:
    """Cut items into blocks of similar length, the longest first: little padding, and no long block comes last."""
    texts = sorted((item.to_json() for item in items), key=lambda text: (-len(text), text))
    return [texts[start : start + rows] for start in range(0, len(texts), rows)]


def _as_row(verdict: Verdict) -> dict[str, Any]:
    return {
        "id": verdict.id,
        "correct": verdict.correct,
        "prediction": verdict.prediction,
        "margin": verdict.margin,
        "scores": list(verdict.scores),
        "error": verdict.error,
        "f1": verdict.f1,
    }


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
