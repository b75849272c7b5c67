"""What the report of one run shows, gathered from its folder."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cpl_ray.assessment import PARTS
from cpl_ray.card import base_model_name
from cpl_ray.config_methods import TITLES
from cpl_ray.errors import UserError
from cpl_ray.ledger import read_ledger
from cpl_ray.report_charts import Chart, interval_bar, percent, run_charts
from cpl_ray.report_questions import PART_NAMES, Questions, questions
from cpl_ray.report_source import (
    as_written,
    as_yaml,
    at,
    number_at,
    rate_at,
    read_config,
    read_object,
)
from cpl_ray.report_svg import round_up

_HEADLINE = (
    ("forgotten", "held_out", "Forgotten, held-out", "M test: neither training nor any choice ever looked at these"),
    ("learned", "", "Learned", "of the questions that it was taught"),
    ("learned_held_out", "", "Learned, held-out", "related questions that it was not taught"),
    ("forgotten", "validation", "Forgotten, validation", "never trained on; choices looked at these"),
    ("forgotten", "in_set", "Forgotten, in-set", "M train: the rule saw these"),
)

_MIN_SCALE = 0.1


@dataclass(frozen=True)
class Measured:
    """One line of the headline."""

    name: str
    meaning: str
    count: int
    of: int
    share: str
    interval: str
    bar: Markup
    colour: str


@dataclass(frozen=True)
class Gate:
    """What the gate said."""

    admitted: bool
    reasons: list[str]
    about: str


@dataclass(frozen=True)
class RunPage:
    """Everything on the page of a run; what is missing in its folder is empty here."""

    name: str
    model: str
    how: str
    summary: str
    headline: list[Measured]
    gate: Gate | None
    charts: list[Chart]
    letter_warning: str | None
    accuracy: list[tuple[str, str, str, str, str]]
    questions: Questions | None
    facts: list[tuple[str, str]]
    versions: list[tuple[str, str]]
    parts: list[tuple[str, str, str, str]]
    config: str


def read_run(folder: Path) -> RunPage:
    """Gather the page of an evaluated run.

    Raises:
        UserError: the run has not been evaluated.
        DataError: a file of it is damaged.
    """
    result = read_object(folder / "result.json")
    if result is None:
        raise UserError(
            f"{folder} has no result.json: the run {folder.name!r} has not been evaluated, so there is nothing to "
            f"report; run `cpl evaluate CONFIG.yaml run.name={folder.name}` first"
        )
    config = read_config(folder / "config.yaml")
    manifest = read_object(folder / "manifest.json") or {}
    environment = read_object(folder / "environment.json") or {}
    flips, metrics = folder / "flips.parquet", folder / "metrics.jsonl"
    warning = at(manifest, "letter_report", "warning")
    rule = str(result.get("rule") or at(config, "train", "rule"))
    with as_written(folder / "config.yaml"):
        limits = _limits(config.get("budget"), "budget")
    with as_written(folder / "result.json"):
        model = base_model_name(str(result.get("model") or config.get("model") or "model"))
        # the limits that the gate judged by, else those of the configuration
        headline = measured(result, limits | _limits(at(result, "gate", "numbers"), "gate.numbers"))
        said, gate, accuracy = summary(result), _gate(result), _accuracy(result)
    with as_written(folder / "environment.json"):
        versions = [(name, str(version)) for name, version in (environment.get("versions") or {}).items() if version]
    with as_written(metrics):
        charts = run_charts(metrics)
    with as_written(flips):
        asked = questions(read_ledger(flips)) if flips.is_file() else None
    return RunPage(
        name=str(result.get("run") or folder.name),
        model=model,
        how=TITLES.get(rule, rule),
        summary=said,
        headline=headline,
        gate=gate,
        charts=charts,
        letter_warning=None if warning is None else str(warning),
        accuracy=accuracy,
        questions=asked,
        facts=_facts(result, config, manifest, environment),
        versions=versions,
        parts=_parts(manifest),
        config=as_yaml(config) if config else "",
    )


def measured(result: Mapping[str, Any], budget: Mapping[str, float | None]) -> list[Measured]:
    """Return the lines of the headline, held-out forgetting first. Forgotten shares have one scale, learned ones 0-1.

    Args:
        result: `forgotten`, `learned` and perhaps `learned_held_out`, as in result.json.
        budget: `max_forgetting` and `min_learned`, None where there is no limit.
    """
    found = []
    for first, second, name, meaning in _HEADLINE:
        rate = rate_at(result, first, second) if second else rate_at(result, first)
        if rate is not None:
            found.append((first, name, meaning, rate))
    forgotten = [rate["high"] for first, _, _, rate in found if first == "forgotten"]
    limit = budget.get("max_forgetting")
    top = min(1.0, round_up(max([_MIN_SCALE, *forgotten, 1.25 * (limit or 0.0)])))
    lines = []
    for first, name, meaning, rate in found:
        loses = first == "forgotten"
        colour = "orange" if loses else "blue"
        scale = {"top": top, "limit": limit} if loses else {"top": 1.0, "limit": budget.get("min_learned")}
        bar = interval_bar(rate, colour=colour, **scale)  # type: ignore[arg-type]
        interval = f"{percent(rate['low'])} – {percent(rate['high'])}"
        lines.append(Measured(name, meaning, rate["count"], rate["of"], percent(rate["share"]), interval, bar, colour))
    return lines


def summary(result: Mapping[str, Any]) -> str:
    """Return learned and held-out forgotten in a sentence."""
    held_out, learned = rate_at(result, "forgotten", "held_out"), rate_at(result, "learned")
    parts = []
    if learned is not None:
        parts.append(f"It learned {learned['count']:,} of {learned['of']:,} questions that it answered wrongly before")
    if held_out is not None:
        parts.append(
            f"it forgot {held_out['count']:,} of {held_out['of']:,} held-out questions that it answered rightly"
        )
    return (", and ".join(parts) + ".") if parts else "Nothing was measured."


def _limits(content: Any, place: str) -> dict[str, float | None]:
    """Return the limits that are set in a section.

    Raises:
        ValueError: one of them is no number.
    """
    known = ("max_forgetting", "min_learned")
    return {name: number_at(content, name, place=place) for name in known if at(content, name) is not None}


def _gate(result: Mapping[str, Any]) -> Gate | None:
    gate = result.get("gate")
    if not isinstance(gate, Mapping) or "admitted" not in gate:
        return None
    version = f"{gate.get('name')} version {gate['version']}" if gate.get("version") is not None else ""
    return Gate(
        gate["admitted"] is True,
        [str(reason).replace(" %", "\u00a0%") for reason in gate.get("reasons") or ()],
        version,
    )


def _accuracy(result: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """Return per part: name, number of items, share right before and after, McNemar p."""
    rows = []
    for part, name in PART_NAMES.items():
        before, after = rate_at(result, "accuracy", part, "before"), rate_at(result, "accuracy", part, "after")
        if before is not None and after is not None:
            paired = at(result, "accuracy", part, "paired")
            unknown = at(paired, "mcnemar_p") is None
            p = 1.0 if unknown else number_at(paired, "mcnemar_p", place=f"accuracy.{part}.paired")
            shown = "–" if unknown else f"{p:.1e}" if p < 0.001 else f"{p:.3f}"
            rows.append((name, f"{after['of']:,}", percent(before["share"]), percent(after["share"]), shown))
    return rows


def _facts(
    result: Mapping[str, Any], config: Mapping[str, Any], manifest: Mapping[str, Any], environment: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Return what one wants to know first about how the run was made; what is not known is left out."""
    train, optimizer = config.get("train"), config.get("optimizer")
    prompt, seed = manifest.get("prompt"), manifest.get("seed")
    fingerprint = manifest.get("prompt_fingerprint")
    template = at(prompt, "template")
    seconds = result.get("train_s")
    facts = [
        ("rule", result.get("rule")),
        ("optimizer", _join(at(optimizer, "name"), _named("lr", at(optimizer, "lr")), at(train, "dtype"))),
        ("updates", _join(_count(result.get("steps")), _named("epochs", result.get("epochs")))),
        ("training", None if not isinstance(seconds, int | float) else f"{seconds:,.1f} s"),
        ("parameters", _count(result.get("num_params"))),
        ("workers", _join(_count(result.get("world_size")), _named("ZeRO", config.get("zero_stage")))),
        ("collaborative share", _share(result.get("collaborative_share"))),
        ("moved against mastered gradient", _count(result.get("moved_against"))),
        ("scorer", result.get("scorer") or manifest.get("scorer")),
        (
            "prompt",
            None if not manifest else template or ("chat template" if at(prompt, "chat") else "as the items say"),
        ),
        ("prompt fingerprint", None if fingerprint is None else str(fingerprint)[:16]),
        ("seeds", _join(_named("training", at(train, "seed")), _named("split", seed))),
        # runs of before project_git was recorded have the working folder's commit at git
        ("commit of cpl-ray" if "project_git" in environment else "git commit", _commit(environment.get("git"))),
        ("commit of the project", _commit(environment.get("project_git"))),
        ("python", environment.get("python")),
        ("platform", environment.get("platform")),
    ]
    return [(name, str(value)) for name, value in facts if value not in (None, "")]


def _parts(manifest: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return per part: name, rows, rows that count, sha256."""
    rows: list[tuple[str, str, str, str]] = []
    for part in PARTS:
        about = at(manifest, "parts", part)
        if isinstance(about, Mapping):
            num, counted = (_count(about.get(name)) or "–" for name in ("rows", "denominator"))
            rows.append((PART_NAMES[part], num, counted, str(about.get("sha256") or "–")))
    return rows


def _commit(git: Any) -> str | None:
    return f"{at(git, 'commit')}{' with changes' if at(git, 'dirty') else ''}" if isinstance(git, Mapping) else None


def _count(value: Any) -> str | None:
    return f"{value:,.0f}" if isinstance(value, int | float) and math.isfinite(value) else None


def _share(value: Any) -> str | None:
    return f"{percent(value)} of the parameters, mean over updates" if isinstance(value, int | float) else None


def _named(name: str, value: Any) -> str | None:
    return None if value is None else f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"


def _join(*parts: str | None) -> str:
    return ", ".join(part for part in parts if part)
