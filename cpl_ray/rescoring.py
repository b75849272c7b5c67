"""Ask finished models again, in one Ray task: the candidate in several ways, the champion on the same items."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import ray

from cpl_ray.assessment import Assessment, Row, Verdict, in_denominator
from cpl_ray.config import Config
from cpl_ray.errors import UserError
from cpl_ray.evidence import Noise, changed, rightness
from cpl_ray.items import Item
from cpl_ray.judging import reordered
from cpl_ray.measures import Rate, TwoByTwo, two_by_two
from cpl_ray.prompts import shows_options
from cpl_ray.scoring import score_apart

# not the seed of `assess.permutations`, whose orders the scorer has asked already
_SEED = 1


@dataclass(frozen=True)
class Job:
    """One list of items to ask one model."""

    label: str
    """Name of the job in the answer; unique."""
    model: str
    """Who is asked, for messages."""
    folder: str
    """Its Hugging Face folder, which every node sees."""
    items: tuple[Item, ...]
    batch_size: int


@dataclass(frozen=True)
class Asked:
    """What is asked of the candidate, and what it answered when the run was evaluated."""

    mastered: tuple[Item, ...]
    """M test, as far as it is in the denominator."""
    injection: tuple[Item, ...]
    """Injection train, as far as it is in the denominator."""
    recorded: dict[str, bool]
    """Whether each was answered rightly then, by id; may lack items."""

    @classmethod
    def of(cls, assessment: Assessment, recorded: dict[str, bool]) -> "Asked":
        """Choose the items that the rates of result.json count."""

        def counted(part: str) -> tuple[Item, ...]:
            rows: Sequence[Row] = assessment.parts.get(part, ())
            return tuple(row.item for row in rows if in_denominator(part, row.before))

        return cls(counted("mastered_test"), counted("injection_train"), recorded)


def measure(
    asked: Asked, *, config: Config, scorer: str, candidate: Path, champion: Path | None
) -> tuple[Noise, TwoByTwo | None]:
    """Measure the candidate's noise floor, and compare it with the champion on M test.

    Ray must be initialised; one task with `cluster.cpus_per_worker` CPUs (and a GPU where `cluster.use_gpu`) does all.

    Args:
        asked: the items.
        config: the candidate's run; both models are asked with its prompt, length limit and compute type.
        scorer: the run's scorer, resolved.
        candidate: model folder.
        champion: model folder of the champion; None: there is none to compare with.

    Returns:
        The noise, and items of M test answered rightly with first = candidate, second = champion.

    Raises:
        UserError: a model cannot be loaded or asked; names it.
    """
    other = other_batch_size(config.assess.batch_size)
    everything = asked.mastered + asked.injection
    permuted = tuple(
        order
        for item in everything
        if shows_options(item, scorer, config.prompt)
        for order in reordered(item, 1, _SEED)
    )
    ours = ("the model of this run", str(candidate))
    jobs = [
        Job("usual", *ours, everything, config.assess.batch_size),
        Job("batch_size", *ours, everything, other),
        Job("permuted", *ours, permuted, config.assess.batch_size),
    ]
    if champion is not None:
        jobs.append(Job("champion", "the champion", str(champion), asked.mastered, config.assess.batch_size))
    verdicts = {label: rightness(answers) for label, answers in rescore(jobs, config=config, scorer=scorer).items()}
    usual, held_out = verdicts["usual"], {item.id for item in asked.mastered}
    again = {
        "evaluation": {key: right for key, right in asked.recorded.items() if key in usual},
        f"batch_size_{other}": verdicts["batch_size"],
        "permuted_options": verdicts["permuted"],
    }
    sides: tuple[dict[str, Rate], dict[str, Rate]] = ({}, {})
    for name, answers in again.items():
        for rates, inside in zip(sides, (True, False), strict=True):
            rate = changed(usual, {key: right for key, right in answers.items() if (key in held_out) is inside})
            if rate.of:
                rates[name] = rate
    table = None
    if champion is not None:
        table = two_by_two({key: right for key, right in usual.items() if key in held_out}, verdicts["champion"])
    return Noise(*sides), table


def other_batch_size(batch_size: int) -> int:
    """Return the batch size that is as different as can be: without any padding, or with some."""
    return 1 if batch_size > 1 else 8


def rescore(jobs: Sequence[Job], *, config: Config, scorer: str) -> dict[str, list[Verdict]]:
    """Do the jobs in one Ray task and return the verdicts by label, each in the order of its items.

    Raises:
        UserError: a model cannot be loaded or asked; names it.
    """
    task: Any = ray.remote(_task).options(
        num_cpus=config.cluster.cpus_per_worker, num_gpus=1 if config.cluster.use_gpu else 0, max_retries=1
    )
    verdicts, failure = ray.get(task.remote(list(jobs), config.model_dump(), scorer))
    if failure is not None:
        raise UserError(failure)
    found: dict[str, list[Verdict]] = verdicts
    return found


def _task(jobs: list[Job], config: dict[str, Any], scorer: str) -> tuple[dict[str, list[Verdict]], str | None]:
    """Return the verdicts, or why there are none: Ray would bury the user's error in a traceback."""
    try:
        return score_jobs(jobs, Config.model_validate(config), scorer), None
    except UserError as error:
        return {}, str(error)


def score_jobs(jobs: Sequence[Job], config: Config, scorer: str) -> dict[str, list[Verdict]]:
    """Do the jobs in this process; models follow each other, each is loaded once.

    The longest item of the first model is that of all: a champion that could read more is asked the same text.

    Raises:
        UserError: a model cannot be loaded or asked; names it.
    """
    # imported here: the driver and a head node without these packages never need them
    import torch

    from cpl_ray.model import item_max_length, load_model, load_tokenizer, model_max_length
    from cpl_ray.predict import Scorer
    from cpl_ray.vision import load_vision

    if not config.cluster.use_gpu:
        torch.set_num_threads(max(1, int(config.cluster.cpus_per_worker)))
    verdicts: dict[str, list[Verdict]] = {}
    limit: int | None = None
    for folder, group in groupby(jobs, key=lambda job: job.folder):
        theirs = list(group)
        with _named(theirs[0].model):
            tokenizer, vision = load_tokenizer(config, folder), load_vision(config, folder)
            loaded = load_model(folder, dtype=config.train.dtype, trust_remote_code=config.trust_remote_code)
            model: torch.nn.Module = loaded
            if config.cluster.use_gpu:
                torch.nn.Module.cuda(model)
            if limit is None:
                limit = item_max_length(config, loaded.config, tokenizer)
            length = min(limit, model_max_length(loaded.config, tokenizer))
            for job in theirs:
                if not job.items:
                    verdicts[job.label] = []
                    continue
                asker = Scorer.of(config, tokenizer, name=scorer, max_length=length, vision=vision)
                asker.batch_size = job.batch_size
                verdicts[job.label] = score_apart(
                    lambda items, asker=asker, model=model: asker.score(model, items, brief=True),  # type: ignore[misc]
                    list(job.items),
                )
            del loaded, model
    return verdicts


@contextmanager
def _named(model: str) -> Iterator[None]:
    """Say which model a failure is about; it is no failure of the configuration any more."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{model} cannot be asked again: {error}") from error
