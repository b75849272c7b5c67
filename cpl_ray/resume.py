"""Whether a run may be continued under another configuration: only where no number can change."""

from typing import Any

from cpl_ray.config import Config
from cpl_ray.errors import ResumeError

FREE = (
    "run",
    "tracking",
    "budget",
    "gate",
    "search",
    "compare",
    "propose",
    "assess.num_actors",
    "cluster.max_failures",
    "cluster.timeout_s",
    "cluster.cpus_per_worker",
    "cluster.num_workers",  # judged with the checkpoint, whose message says more
    "train.checkpoint_every",
    "train.keep_checkpoints",
)


def check_same_job(saved: Config, asked: Config) -> None:
    """Refuse to continue a run with settings that would change its numbers.

    More epochs or updates are fine while the learning rate does not depend on their number.

    Raises:
        ResumeError: names each differing key with both values.
    """
    settled = "budget.max_forgetting" if asked.train.keep_inside_budget else None  # a number follows from it
    free = FREE + (("train.epochs", "train.max_steps") if asked.train.schedule == "constant" else ())
    before, now = _flat(saved.model_dump()), _flat(asked.model_dump())
    differing = [
        f"{key} was {before.get(key)!r}, now {now.get(key)!r}"
        for key in sorted(before | now)
        if before.get(key) != now.get(key)
        and (key == settled or not any(key == name or key.startswith(f"{name}.") for name in free))
    ]
    if differing:
        raise ResumeError(
            f"run.resume: {'; '.join(differing)}. A resumed run keeps its settings; put them back or start a new run"
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
