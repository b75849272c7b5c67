"""The assess stage: read the items, ask the base model, make the parts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from cpl_ray.assessment import Assessment, Parts, read_assessment, resolve_scorer, with_before, write_assessment
from cpl_ray.bias import letter_report
from cpl_ray.cells import RowError
from cpl_ray.config import Config, DataConfig
from cpl_ray.encoding import GENERATING, Encoder
from cpl_ray.errors import DataError
from cpl_ray.items import Item
from cpl_ray.manifest import build_manifest, check_fits
from cpl_ray.prompts import prompt_fingerprint
from cpl_ray.reading import ReadResult, Rejected, check_budget, read_items, separate_ids, write_rejected
from cpl_ray.rundir import RunDir, atomic_write_bytes, read_json
from cpl_ray.split import check_leaks, denominator_notices, grade, parts_from_brought, split
from cpl_ray.stopwatch import phase
from pipelines.console import Say
from pipelines.session import ray_session

BROUGHT = ("mastered", "mastered_held_out", "injection", "injection_held_out")


class Reading:
    """Items of all sources of a run, with those set aside that cannot be read or encoded."""

    def __init__(self, config: Config, run: RunDir, say: Say) -> None:
        """Read and tokenise everything once.

        Raises:
            ConfigError: a source or the tokenizer is missing.
            DataError: a source is empty or beyond its error budget.
        """
        from cpl_ray.model import item_max_length, load_settings, load_tokenizer
        from cpl_ray.vision import load_vision

        data = config.data
        names = ("items",) if data.mastered is None else BROUGHT
        sources = {name: getattr(data, name) for name in names if getattr(data, name) is not None}
        if not sources:
            raise DataError("there is no data: set data.items, or data.mastered and data.injection")
        tokenizer = load_tokenizer(config)
        read = {
            name: read_items(source, data, name=f"data.{name}", keep_duplicates=name != "items")
            for name, source in sources.items()
        }
        path = run.root / "rejected.jsonl"
        _set_aside(read, data, path)
        self.scorer = resolve_scorer(config.assess.scorer, [item for one in read.values() for item in one.items])
        model_config = load_settings(config)
        self.max_length = item_max_length(config, model_config, tokenizer)
        self.encoder = Encoder.of(
            config, tokenizer, scorer=self.scorer, max_length=self.max_length, vision=load_vision(config)
        )
        self.fingerprint = prompt_fingerprint(self.scorer, config.prompt, tokenizer)
        self.answer_lengths: list[int] = []
        read = {name: self._encodable(one) for name, one in read.items()}
        rejected = _set_aside(read, data, path)
        if rejected:
            first = f"row {rejected[0].row}: {rejected[0].reason}"
            say(f"{len(rejected)} rows set aside, reasons in {path}; the first: {first}")
        limit = config.assess.max_new_tokens
        longer = sum(length > limit for length in self.answer_lengths)
        if self.scorer in GENERATING and longer:
            longest = max(self.answer_lengths)
            say(
                f"warning: {longer} of {len(self.answer_lengths)} answers have more tokens than "
                f"assess.max_new_tokens={limit} and cannot be scored; the longest needs "
                f"assess.max_new_tokens={longest}",
                event="warning",
            )
        self.num_rows = sum(one.num_rows for one in read.values())
        self.num_rejected = len(rejected)
        self.sets = separate_ids({name: one.items for name, one in read.items()})

    def _encodable(self, result: ReadResult) -> ReadResult:
        """Set aside the items whose answer does not fit or whose scorer cannot ask them."""
        items, rejected = [], list(result.rejected)
        for item in result.items:
            try:
                num_tokens = len(self.encoder.training(item).target_ids)
                self.answer_lengths.append(num_tokens - int(self.encoder.append_eos))
                items.append(item)
            except RowError as error:
                rejected.append(Rejected(*result.places[item.id], str(error), item.to_json()[:200]))
        return replace(result, items=items, rejected=rejected)


def _set_aside(read: dict[str, ReadResult], data: DataConfig, path: Path) -> list[Rejected]:
    """Write the rejected rows of all sources to `path` and return them, unless a source is beyond its budget."""
    rejected = [row for one in read.values() for row in one.rejected]
    write_rejected(path, rejected)
    for name, one in read.items():
        check_budget(one, data, f"data.{name}", path)
    return rejected


def assess_items(config: Config, run: RunDir, say: Say, *, score: bool = True) -> dict[str, Any]:
    """Score all items with the base model, make the parts and write `<run>/assessment`.

    Args:
        config: the run.
        run: its folder.
        say: prints progress.
        score: False writes brought sets without asking the model.

    Returns:
        The manifest.
    """
    from cpl_ray.scoring import score_items

    reading = Reading(config, run, say)
    brought = config.data.items is None
    parts: Parts = parts_from_brought(*_four(reading.sets)) if brought else {}
    items: list[Item] = [row.item for rows in parts.values() for row in rows] if brought else reading.sets["items"]
    graded = report = None
    if score:
        with ray_session(config, say):
            say(f"asking the base model {len(items)} items by {reading.scorer}")
            with phase("assess: ask the model"):
                verdicts = score_items(
                    items, config=config, scorer=reading.scorer, model_path=config.model, max_length=reading.max_length
                )
        report = letter_report(items, verdicts)
        if brought:
            parts = with_before(parts, verdicts)
            for notice in denominator_notices(parts):
                say(notice)
        else:
            graded = grade(items, verdicts)
            parts = split(items, verdicts, config.split, graded=graded)
            check_leaks(parts)
        if report.get("warning"):
            say(f"warning: {report['warning']}", event="warning")
    manifest = build_manifest(
        config,
        scorer=reading.scorer,
        prompt_fingerprint=reading.fingerprint,
        num_rows=reading.num_rows,
        num_rejected=reading.num_rejected,
        set_aside=graded.set_aside if graded else (),
        letter_report=report,
    )
    write_assessment(run.assessment, parts, manifest)
    return publish(run, say)


def _four(sets: dict[str, list[Item]]) -> tuple[list[Item], list[Item], list[Item], list[Item]]:
    """Return the brought sets in the order of `BROUGHT`, empty where none was brought."""
    mastered, mastered_held_out, injection, injection_held_out = (sets.get(name, []) for name in BROUGHT)
    return mastered, mastered_held_out, injection, injection_held_out


def publish(run: RunDir, say: Say) -> dict[str, Any]:
    """Put the assessment's manifest at the top of the run folder and say the sizes of its parts."""
    atomic_write_bytes(run.manifest, (run.assessment / "manifest.json").read_bytes())
    manifest = read_json(run.manifest)
    rows = {part: described["rows"] for part, described in manifest["parts"].items()}
    say(f"parts: {', '.join(f'{part} {number}' for part, number in rows.items() if number)}")
    return manifest


def adopt_assessment(config: Config, run: RunDir, say: Say) -> dict[str, Any]:
    """Take over the assessment that `data.assessment` names, if it was made with this model, scorer and prompt."""
    from cpl_ray.model import load_tokenizer

    assert config.data.assessment is not None
    found = read_assessment(config.data.assessment)
    wanted = config.assess.scorer
    scorer = str(found.manifest["scorer"]) if wanted == "auto" else wanted
    fingerprint = prompt_fingerprint(scorer, config.prompt, load_tokenizer(config))
    check_fits(found.manifest, config, scorer=scorer, prompt_fingerprint=fingerprint)
    write_assessment(run.assessment, found.parts, found.manifest)
    say(f"using the assessment in {config.data.assessment}")
    return publish(run, say)


def encoder_of(config: Config, assessment: Assessment) -> tuple[Encoder, int]:
    """Return the encoder that the assessment was made with, and the longest item in tokens."""
    from cpl_ray.model import item_max_length, load_settings, load_tokenizer
    from cpl_ray.vision import load_vision

    tokenizer = load_tokenizer(config)
    model_config = load_settings(config)
    max_length = item_max_length(config, model_config, tokenizer)
    scorer = str(assessment.manifest["scorer"])
    vision = load_vision(config)
    return Encoder.of(config, tokenizer, scorer=scorer, max_length=max_length, vision=vision), max_length
