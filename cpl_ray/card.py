"""The model card: README.md in the model folder, with what the model knew before and after, held-out first."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cpl_ray import __version__
from cpl_ray.atomic import atomic_write_text
from cpl_ray.config import Config
from cpl_ray.config_methods import TITLES

PAPER = "https://arxiv.org/abs/2601.21577"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?")
_NONE = "–"
_ACCURACY = (
    ("mastered_test", "mastered, held-out (never trained on, never looked at)"),
    ("injection_held_out", "injection, held-out (never trained on)"),
    ("injection_train", "injection (trained)"),
    ("mastered_validation", "mastered, validation (never trained on)"),
    ("mastered_train", "mastered, in-set (seen by the rule)"),
)
_FLIPS = (
    (("forgotten", "held_out"), "forgotten, held-out"),
    (("learned",), "learned"),
    (("learned_held_out",), "learned, held-out"),
    (("forgotten", "validation"), "forgotten, validation"),
    (("forgotten", "in_set"), "forgotten, in-set"),
)


def write_card(model_folder: Path, result: Mapping[str, Any], config: Config, manifest: Mapping[str, Any]) -> Path:
    """Write `README.md` beside the weights: front matter for the hub, measured numbers, how the model was made.

    Args:
        model_folder: the Hugging Face folder.
        result: content of result.json; may lack parts, which the card then lacks or calls unmeasured.
        config: the run.
        manifest: of the assessment; may be empty where there was none.

    Returns:
        The path of the card. It holds no path of this machine: of a local base model only the folder's name.
    """
    path = model_folder / "README.md"
    images = _takes_images(model_folder)
    sections = _sections(result, config, manifest, images=images)
    atomic_write_text(path, _front_matter(config, images=images) + "\n" + "\n\n".join(sections) + "\n")
    return path


def base_model_name(model: str) -> str:
    """Return a hub id as it is and of a local folder its name only."""
    if _HUB_ID.fullmatch(model) and not os.path.exists(model):
        return model
    return Path(model).expanduser().resolve().name or "model"


def _takes_images(model_folder: Path) -> bool:
    """Tell from its configuration whether the saved model is a vision-language model."""
    path = model_folder / "config.json"
    return path.is_file() and "vision_config" in json.loads(path.read_text(encoding="utf-8"))


def _front_matter(config: Config, *, images: bool) -> str:
    tags = ["cpl-ray", "knowledge-injection", "continual-learning"]
    if config.train.rule == "cpl":
        tags.insert(0, "collaborative-parameter-learning")
    head = {
        "base_model": base_model_name(config.model),
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text" if images else "text-generation",
        "tags": tags,
    }
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n"


def _sections(result: Mapping[str, Any], config: Config, manifest: Mapping[str, Any], *, images: bool) -> list[str]:
    base = base_model_name(config.model)
    what = f"`{base}` was taught questions that it answered wrongly, by {TITLES[config.train.rule]}"
    if _cpl(config):
        what += (
            f" ([paper]({PAPER})): in each update only those parameters move whose change, to first order, does not "
            "raise the loss on questions that it answered rightly"
        )
    tables = [table for table in (_flip_table(result), _accuracy_table(result)) if table]
    legend = (
        "Intervals are Clopper–Pearson at 95 %. *Forgotten*: answered rightly by the base model and wrongly by this "
        "one; *learned*: the reverse. Held-out items were seen neither by training nor by any choice."
    )
    return [
        f"# {base} with new knowledge",
        f"{what}.",
        "## Before and after",
        *([*tables, legend] if tables else ["Not measured yet."]),
        "## How it was made",
        _making(result, config, manifest),
        "## Use",
        _usage(images=images),
    ]


def _cpl(config: Config) -> bool:
    return config.train.rule == "cpl"


def _flip_table(result: Mapping[str, Any]) -> str:
    rows = []
    for path, label in _FLIPS:
        rate = _at(result, path)
        if rate is not None:
            rows.append(f"| {label} | {rate['count']} of {rate['of']} | {_share(rate)} | {_interval(rate)} |")
    return "\n".join(["| | items | share | interval |", "|---|---:|---:|---:|", *rows]) if rows else ""


def _accuracy_table(result: Mapping[str, Any]) -> str:
    rows = []
    for part, label in _ACCURACY:
        before, after = _at(result, ("accuracy", part, "before")), _at(result, ("accuracy", part, "after"))
        if before is not None and after is not None:
            sides = " | ".join(f"{_share(rate)} ({_interval(rate)})" for rate in (before, after))
            rows.append(f"| {label} | {after['of']} | {sides} |")
    head = ["| answered rightly | items | before (interval) | after (interval) |", "|---|---:|---:|---:|"]
    return "\n".join([*head, *rows]) if rows else ""


def _making(result: Mapping[str, Any], config: Config, manifest: Mapping[str, Any]) -> str:
    train = config.train
    when = "at every update" if train.refresh == 1 else f"every {train.refresh} updates"
    batch = f"{train.mastered_batch_size} items {when}"
    refresh = "the whole of M train at each epoch" if train.refresh == "epoch" else batch
    facts = [
        ("rule", f"`{train.rule}`" + (f", mastered gradient from {refresh}" if _cpl(config) else "")),
        ("optimizer", f"`{config.optimizer.name}`, lr {config.optimizer.lr:g}, {train.dtype}"),
        ("batch", f"{config.global_batch_size} items, workers: {config.cluster.num_workers}"),
        ("scorer", f"`{manifest.get('scorer', config.assess.scorer)}`"),
        ("seed", f"{train.seed}"),
        *_adapter(config),
        ("software", f"cpl-ray {__version__}"),
    ]
    if isinstance(steps := result.get("steps"), int):
        facts.insert(3, ("updates", f"{steps}"))
    if _cpl(config) and isinstance(share := result.get("collaborative_share"), int | float):
        facts.append(("collaborative share", f"{100 * share:.1f} % of the parameters, mean over updates"))
    if _cpl(config) and isinstance(against := result.get("moved_against"), int | float):
        facts.append(("moved against the mastered gradient", f"{against:g} parameters"))
    return "\n".join(f"- {name}: {text}" for name, text in facts)


def _adapter(config: Config) -> list[tuple[str, str]]:
    """Return the line about the adapter; none where all parameters were trained."""
    adapter = config.adapter
    if adapter.name == "none":
        return []
    settings = {
        "lora": f"rank {adapter.rank}, alpha {adapter.alpha:g}, dropout {adapter.dropout:g}",
        "osft": f"the leading {100 * adapter.frozen_share:g} % of the singular directions fixed",
    }[adapter.name]
    layers = ", ".join(f"`{name}`" for name in adapter.targets) or "all linear layers but the output head"
    return [("adapter", f"`{adapter.name}` on {layers}, {settings}; merged into the weights")]


def _usage(*, images: bool) -> str:
    model = "AutoModelForImageTextToText" if images else "AutoModelForCausalLM"
    name, beside = ("processor", "AutoProcessor") if images else ("tokenizer", "AutoTokenizer")
    first, second = sorted((model, beside))
    return (
        f"```python\nfrom transformers import {first}, {second}\n\n"
        f'{name} = {beside}.from_pretrained("path/to/this/folder")\n'
        f'model = {model}.from_pretrained("path/to/this/folder")\n```'
    )


def _at(result: Mapping[str, Any], path: tuple[str, ...]) -> Mapping[str, Any] | None:
    """Return the rate at `path` (count, of, share, low, high); None where it was not measured or is of no items."""
    found: Any = result
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) and found.get("of") and "count" in found else None


def _share(rate: Mapping[str, Any]) -> str:
    return f"{100 * rate['count'] / rate['of']:.1f} %"


def _interval(rate: Mapping[str, Any]) -> str:
    low, high = rate.get("low"), rate.get("high")
    return _NONE if low is None or high is None else f"{100 * low:.1f} – {100 * high:.1f} %"
