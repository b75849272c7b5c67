"""The propose stage: prompts in, items out that the model answers the same again."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cpl_ray.cells import normalised
from cpl_ray.config import Config
from cpl_ray.digest import items_digest, model_digest
from cpl_ray.errors import DataError
from cpl_ray.items import Item
from cpl_ray.model_source import local_source
from cpl_ray.prompts import render
from cpl_ray.proxy_items import Draft, held_out, sift
from cpl_ray.proxy_prompts import seeds_of
from cpl_ray.reading import check_budget, read_items, write_rejected
from cpl_ray.rundir import RunDir, atomic_write_text
from pipelines.console import Say
from pipelines.session import ray_session
from pipelines.stages import prepared

KEPT_OUT = ("items", "injection", "injection_held_out", "mastered_held_out")
"""Sources whose questions must not be proposed: those to inject, and those that forgetting is to be measured on."""


def propose_items(config: Config, run: RunDir, say: Say, *, given: Sequence[str]) -> dict[str, Any]:
    """Write the files that `pipelines.propose.WRITES` names; `given`: the configuration file and overrides.

    Returns:
        The content of proposed.json.

    Raises:
        ConfigError: a file, the model or the scorer cannot be used.
        DataError: not one item could be made.
    """
    from cpl_ray.drafting import confirmed, draft_items
    from cpl_ray.model import item_max_length, load_settings, load_tokenizer

    seeds, refused = seeds_of(config)
    if refused:
        say(f"warning: {len(refused)} rows cannot be used; the first: {refused[0]}", event="warning")
    config = prepared(config, run)
    tokenizer = load_tokenizer(config)
    items = _kept_out(config, run, say)
    taken = _taken(items, config, tokenizer)
    model_config = load_settings(config)
    length = item_max_length(config, model_config, tokenizer)
    source = "of the model's own" if config.propose.prompts is None else f"from {config.propose.prompts}"
    with ray_session(config, say):
        say(f"asking the base model {len(seeds)} prompts {source}, for {config.propose.items} items")
        drafts, failures = draft_items(seeds, config=config, model_path=config.model, progress=_tenths(say))
        if failures:
            say(f"warning: {len(failures)} prompts failed; the first: {failures[0]}", event="warning")
        sifted = sift(drafts, taken)
        kept = confirmed(sifted, config.propose.items, config=config, model_path=config.model, max_length=length)
    rejected = dict(sifted.rejected.most_common())
    if refused:
        rejected["row that is no prompt"] = len(refused)
    reasons = ", ".join(f"{reason}: {count}" for reason, count in rejected.items())
    if not kept:
        raise DataError(f"none of {len(seeds)} prompts became an item ({reasons}); see docs/propose.md")
    if len(kept) < config.propose.items:
        say(
            f"warning: {len(kept)} of {config.propose.items} items asked for could be made of {len(seeds)} prompts "
            f"({reasons or 'there were no more prompts'}); more propose.candidates give more items",
            event="warning",
        )
    train, test = held_out(kept, config.propose.held_out, config.propose.seed)
    _write(run.root / "proposed.jsonl", train, config)
    _write(run.root / "proposed_held_out.jsonl", test, config)
    folder = local_source(config.model)
    endings = [draft.ended for draft in kept]
    record = {
        "asked_for": config.propose.items,
        "kept": len(kept),
        "held_out": len(test),
        "prompts": len(seeds) + len(refused),
        "not_needed": len(seeds) - len(kept) - sifted.rejected.total(),
        "rejected": rejected,
        "ended": {ended: endings.count(ended) for ended in sorted(set(endings))},
        "compared_with": len(items),
        "model": config.model,
        "model_revision": config.model_revision,
        "model_sha256": None if folder is None else model_digest(folder),
        "items_sha256": items_digest(draft.item() for draft in kept),
        "scorer": "exact_match",
        "settings": _settings(config),
        "command": use(config, run, given, held_out=bool(test)),
    }
    atomic_write_text(run.root / "proposed.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    if any(item.choices for item in items) and config.assess.scorer == "auto":
        say("note: together with free answers assess.scorer auto means exact_match, also for items with choices")
    return record


def _kept_out(config: Config, run: RunDir, say: Say) -> list[Item]:
    """Read the items that are to be injected or measured on; a held-out file may be one that is yet to be written."""
    sources = {name: source for name in KEPT_OUT if (source := config.data.__dict__[name]) is not None}
    if not sources.keys() - {"mastered_held_out"}:
        say("note: neither data.items nor data.injection is set, so no question can be kept from being proposed")
    held_out = sources.get("mastered_held_out")
    if isinstance(held_out, str) and not Path(held_out).expanduser().exists():
        del sources["mastered_held_out"]
    read = {
        name: read_items(source, config.data, name=f"data.{name}", keep_duplicates=True)
        for name, source in sources.items()
    }
    path = run.root / "rejected.jsonl"
    write_rejected(path, [row for one in read.values() for row in one.rejected])
    for name, one in read.items():
        check_budget(one, config.data, f"data.{name}", path)
    return [item for one in read.values() for item in one.items]


def _taken(items: Sequence[Item], config: Config, tokenizer: Any) -> set[str]:
    """Return what items ask, normalised as the split does it: the question alone, and in its prompt."""
    plain = config.prompt.model_copy(update={"chat": False})
    keys = {item.question_key() for item in items}
    for item in items:
        if item.kind != "chat":
            text, _ = render(item, scorer="exact_match", prompt=plain, tokenizer=tokenizer)
            keys |= {normalised(text), normalised(item.question)} - {""}
    return keys


def _write(path: Path, drafts: Sequence[Draft], config: Config) -> None:
    """Write rows under the column names that the configuration reads."""
    columns = config.data.columns
    names = {name: columns.get(name, name) for name in ("id", "prompt", "completion")}
    rows = ({names["id"]: one.id, names["prompt"]: one.prompt, names["completion"]: one.completion} for one in drafts)
    atomic_write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _settings(config: Config) -> dict[str, Any]:
    """Return what the items follow from, beside the model."""
    return {
        "propose": config.propose.model_dump(),
        "prompt": config.prompt.model_dump(),
        "append_eos": config.data.append_eos,
        "max_length": config.data.max_length,
        "max_new_tokens": config.assess.max_new_tokens,
        "batch_size": config.assess.batch_size,
        "dtype": config.train.dtype,
    }


def use(config: Config, run: RunDir, given: Sequence[str], *, held_out: bool) -> str:
    """Return the command that trains with the proposed items; it has a run folder of its own.

    Args:
        config: the run that proposed.
        run: its folder.
        given: the configuration file and the overrides it was started with.
        held_out: held-out items were written.
    """
    data = config.data
    injection = data.injection if data.injection is not None else data.items
    wanted = {"data.mastered": str(run.root / "proposed.jsonl")}
    if held_out:
        wanted["data.mastered_held_out"] = str(run.root / "proposed_held_out.jsonl")
    if data.items is not None:
        wanted["data.items"] = "null"
    if injection is None:
        wanted["data.injection"] = "YOUR_NEW_ITEMS.jsonl"
    elif data.injection is None:
        wanted["data.injection"] = injection if isinstance(injection, str) else json.dumps(injection)
    if data.format not in ("auto", "completion"):
        wanted["data.format"] = "auto"
    wanted["run.name"] = f"{run.name}-run"
    kept = [text for text in given[1:] if _key(text) not in wanted and not _key(text).startswith(("run.", "propose."))]
    folder = [text for text in given[1:] if _key(text) == "run.dir"]
    return shlex.join(["cpl", "run", given[0], *folder, *kept, *(f"{key}={value}" for key, value in wanted.items())])


def _key(override: str) -> str:
    return override.partition("=")[0].strip()


def _tenths(say: Say) -> Any:
    """Return a progress function that speaks at every tenth."""
    said = 0

    def progress(done: int, total: int) -> None:
        nonlocal said
        if 10 * done // total > said:
            said = 10 * done // total
            say(f"{done} of {total} prompts", event="progress", done=done, planned=total)

    return progress
