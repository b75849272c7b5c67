"""Draft items of a proxy mastered set on the cluster, and keep those that the model answers the same again."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from cpl_ray.actor_pool import Loaded, Work, apart, on_actors
from cpl_ray.config import Config
from cpl_ray.proxy_items import Draft, Seed, Sifted
from cpl_ray.scoring import score_items

NOT_AGAIN = "answered otherwise again"
_NOT_SCORED = "cannot be scored"
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "question", "prompt", "completion", "ended", "reason", "failure")]
)

Progress = Callable[[int, int], None]


def draft_items(
    seeds: Sequence[Seed], *, config: Config, model_path: str, progress: Progress | None = None
) -> tuple[list[Draft], list[str]]:
    """Let the model write and answer on actors; the number of actors changes nothing.

    Ray must be initialised; see `on_actors`. Batches are `assess.batch_size` neighbours of `seeds`.

    Args:
        seeds: what to start from; ids are unique.
        config: the run.
        model_path: a local folder that every node sees, or a hub id.
        progress: called with (seeds done, seeds in all).

    Returns:
        A draft for each seed, in order, and what failed unexpectedly.

    Raises:
        ConfigError: the model, its tokenizer or the prompt settings cannot be used.
    """
    size = config.assess.batch_size
    blocks = [[seed.to_json() for seed in seeds[start : start + size]] for start in range(0, len(seeds), size)]
    found: dict[str, Draft] = {}
    failures: list[str] = []
    made = on_actors(
        blocks,
        drafting,
        {},
        schema=_SCHEMA,
        config=config,
        model_path=model_path,
        num_actors=min(config.assess.num_actors or config.cluster.num_workers, len(blocks)),
    )
    with closing(made):
        for rows in made:
            for row in rows:
                failure = row.pop("failure")
                failures += [] if failure is None else [f"{row['id']}: {failure}"]
                found[row["id"]] = Draft(**row)
            if progress is not None:
                progress(len(found), len(seeds))
    missing = [seed.id for seed in seeds if seed.id not in found]
    if missing:
        raise RuntimeError(f"{len(missing)} of {len(seeds)} prompts came back without a draft, e.g. {missing[0]!r}")
    return [found[seed.id] for seed in seeds], sorted(failures)


def drafting(loaded: Loaded) -> Work:
    """Return the work of one actor: seeds as JSON in, drafts as rows out."""
    from cpl_ray.proxy_writer import ProxyWriter  # needs torch, as only the actors must

    writer = ProxyWriter(
        loaded.config, loaded.model, loaded.tokenizer, max_length=loaded.max_length, vision=loaded.vision
    )

    def write(seeds: list[Seed]) -> list[dict[str, Any]]:
        return [asdict(draft) | {"failure": None} for draft in writer.write(seeds)]

    def failed(seed: Seed, reason: str) -> dict[str, Any]:
        return asdict(Draft(seed.id, reason="failed with an error")) | {"failure": reason}

    return lambda texts: apart(write, [Seed.from_json(text) for text in texts], failed)


def confirmed(sifted: Sifted, wanted: int, *, config: Config, model_path: str, max_length: int) -> list[Draft]:
    """Return the first `wanted` drafts that the run's own scorer calls right, among other items in other batches.

    Drafts beyond what is needed are not asked. What is rejected is counted in `sifted`.

    Raises:
        ConfigError: as `score_items`.
    """
    kept: list[Draft] = []
    waiting = list(sifted.kept)
    while waiting and len(kept) < wanted:
        # a few more than needed, so that one pass is enough nearly always
        size = (wanted - len(kept)) * 5 // 4 + 1
        asked, waiting = waiting[:size], waiting[size:]
        verdicts = score_items(
            [draft.item() for draft in asked],
            config=config,
            scorer="exact_match",
            model_path=model_path,
            max_length=max_length,
        )
        for draft in asked:
            verdict = verdicts[draft.id]
            if verdict.correct:
                kept.append(draft)
            else:
                sifted.rejected[_NOT_SCORED if verdict.error is not None else NOT_AGAIN] += 1
    return kept[:wanted]
