"""What is accepted and said: keys that have no effect in this combination, and that foreign code is run."""

from pathlib import Path
from typing import Protocol

from pydantic import BaseModel

from cpl_ray.config import Config
from cpl_ray.config_methods import Rule
from cpl_ray.keys import all_keys

_METHOD_KEYS: dict[str, tuple[Rule, ...]] = {
    "replay_weight": ("replay",),
    "strength": ("l2sp", "ewc"),
    "fisher_items": ("ewc",),
    "memory": ("gem",),
    "margin": ("gem",),
    "density": ("random_mask", "mofo"),
}
UNCOMPILED: tuple[Rule, ...] = ("random_mask", "hft", "mofo", "cautious")
"""Rules that change updates in ways of their own; the others change gradients, or nothing."""


class _Note(Protocol):
    def __call__(self, reason: str, *names: str) -> None: ...


def notices(config: Config) -> list[str]:
    """Return one sentence per key that was set explicitly and has no effect in this combination, in key order.

    Last comes one if code shipped with the model is run.

    A section in which every key is set, as in the saved configuration of a run, is taken to repeat the defaults:
    of its keys only those that differ from their default are named.
    """
    reasons = _without_effect(config)
    sentences = []
    for name, key in all_keys().items():
        if name not in reasons or key.section:
            continue
        section: BaseModel = config
        *path, leaf = name.split(".")
        for part in path:
            section = section.__dict__[part]
        value = section.__dict__[leaf]
        complete = section.model_fields_set == set(type(section).model_fields)
        if leaf in section.model_fields_set and not (complete and value == key.default):
            sentences.append(f"{name} has no effect here: {reasons[name]}")
    if config.trust_remote_code:
        sentences.append(f"trust_remote_code is true: Python code shipped with {config.model} runs on every node")
    return sentences


def _without_effect(config: Config) -> dict[str, str]:
    """Map each key without effect in this combination, set or not, to the reason."""
    found: dict[str, str] = {}

    def note(reason: str, *names: str) -> None:
        for name in names:
            found.setdefault(name, reason)

    _data(config, note)
    _training(config, note)
    if Path(config.model).expanduser().is_dir():
        note("the model is a local folder", "model_revision")
    _search(config, note)
    if config.propose.prompts is not None:
        note("propose.prompts gives the questions", "propose.temperature", "propose.max_prompt_tokens")
    if config.prompt.chat:
        note("prompt.chat wraps questions in the chat template", "propose.template")
    if not config.budget.rescore:
        note("budget.rescore is false, so no champion is asked", "budget.alpha")
    if not config.tracking.enabled:
        note("tracking.enabled is false", "tracking.uri", "tracking.experiment", "tracking.model_name")
    return found


def _data(config: Config, note: _Note) -> None:
    data, scorer = config.data, config.assess.scorer
    splitting = ("split.mastered_validation", "split.mastered_test", "split.injection_held_out", "split.seed")
    if data.assessment is not None:
        sources = ("items", "mastered", "mastered_held_out", "injection", "injection_held_out")
        note("the parts come from data.assessment", *splitting, *(f"data.{name}" for name in sources))
    if data.mastered is not None:
        note("the sets are brought (data.mastered, data.injection) and not split", *splitting)
    else:
        note(
            "it belongs to brought sets, and data.mastered is not set",
            "data.mastered_held_out",
            "data.injection_held_out",
        )
    if "dataset_split" in data.model_fields_set and _all_files(config):
        note("no source is the name of a dataset", "data.dataset_split")
    if not config.train.shuffle:
        note("train.shuffle is false", "data.shuffle_window")
    if data.format in ("cloze", "completion", "chat"):
        note(f"it concerns multiple-choice items, and data.format is {data.format}", "prompt.template")
    if scorer not in ("auto", "exact_match", "token_f1"):
        note(f"the scorer {scorer} generates nothing", "assess.max_new_tokens")
    if scorer != "token_f1":
        note("only the scorer token_f1 measures F1", "assess.min_f1")
    if scorer != "letter_logit":
        note("only the scorer letter_logit permutes options", "assess.permutations")


def _training(config: Config, note: _Note) -> None:
    train, name = config.train, config.optimizer.name
    if config.mastered_passes == "none":
        mastered = ("mask_on", "mastered_state", "refresh", "mastered_batch_size", "mastered_micro_batch_size")
        note(f"train.rule {train.rule} uses no mastered gradient", *(f"train.{key}" for key in mastered))
    elif train.rule != "cpl":
        note(f"it belongs to train.rule cpl; the rule is {train.rule}", "train.mask_on", "train.mastered_state")
    if config.mastered_passes in ("mix", "start"):
        reason = {"mix": "at every update", "start": "before the first update only"}[config.mastered_passes]
        note(f"train.rule {train.rule} uses mastered items {reason}", "train.refresh")
        if config.mastered_passes == "start":
            note("method.fisher_items says how many are used, one at a time", "train.mastered_batch_size")
            note("mastered items are used one at a time", "train.mastered_micro_batch_size")
    if config.mastered_passes == "capture" and train.refresh == "epoch":
        note("train.refresh epoch uses all of M train", "train.mastered_batch_size")
    for key, rules in _METHOD_KEYS.items():
        if train.rule not in rules:
            note(f"it belongs to train.rule {' and '.join(rules)}; the rule is {train.rule}", f"method.{key}")
    if config.evaluate.every is None:
        note("evaluate.every is null", "train.keep_inside_budget", "evaluate.in_set")
    _estimators_and_guard(config, note)
    if train.checkpoint_every is None:
        note("train.checkpoint_every is null", "train.keep_checkpoints")
    if name not in ("adam", "adamw"):
        note(f"only adam and adamw use it; the optimizer is {name}", "optimizer.betas", "optimizer.eps")
    if name != "sgd":
        note(f"only sgd uses it; the optimizer is {name}", "optimizer.momentum")
    if "." not in name:
        note(f"only optimizers given as module.Class take options; the optimizer is {name}", "optimizer.options")
    _compiled(config, note)
    _adapter(config, note)


def _compiled(config: Config, note: _Note) -> None:
    """Say where no step has the form that `optimizer.compile` is about."""
    train, name = config.train, config.optimizer.name
    if "." in name:
        note(f"{name} is not compiled; only sgd, adam and adamw are", "optimizer.compile")
    if train.rule in UNCOMPILED:
        note(f"the updates of train.rule {train.rule} are not compiled", "optimizer.compile")
    elif train.rule == "cpl" and train.mask_on == "gradient":
        note("masked gradients are not compiled", "optimizer.compile")
    elif train.rule == "cpl" and train.mastered_state == "full":
        note("train.mastered_state full asks for sums that are not compiled", "optimizer.compile")


def _adapter(config: Config, note: _Note) -> None:
    name = config.adapter.name
    if name == "none":
        note("adapter.name is none, so all parameters are trained", "adapter.targets")
    if name != "lora":
        note(f"only lora uses it; adapter.name is {name}", "adapter.rank", "adapter.alpha", "adapter.dropout")
    if name != "osft":
        note(f"only osft uses it; adapter.name is {name}", "adapter.frozen_share")


def _estimators_and_guard(config: Config, note: _Note) -> None:
    state, guard = config.train.mastered_state, config.guard
    if config.train.rule != "cpl":
        note(f"train.rule {config.train.rule} keeps no such estimate", "train.mastered_average", "train.vote_majority")
    if state not in ("ema8", "vote"):
        note(f"train.mastered_state {state} keeps the last refresh only", "train.mastered_average")
    if state != "vote":
        note(f"train.mastered_state {state} does not vote", "train.vote_majority")
    if config.mastered_passes != "capture":
        rule = f"train.rule {config.train.rule} makes no g_M at refreshes, so there is no sample to measure on"
        note(rule, *(f"guard.{name}" for name in type(guard).model_fields))
    if guard.mode == "off":
        note("guard.mode is off", "guard.tolerance")
    if guard.mode not in ("adapt", "rollback"):
        note(f"guard.mode {guard.mode} makes no step again", "guard.max_retries")
    if guard.mode != "rollback":
        note(f"guard.mode {guard.mode} does not use it", "guard.shrink")


def _search(config: Config, note: _Note) -> None:
    search = config.search
    if not search.space:
        note("search.space is empty", *(f"search.{name}" for name in type(search).model_fields if name != "space"))
        return
    if not search.early_stopping:
        note("search.early_stopping is false", "search.grace_evaluations", "search.reduction_factor")
    if search.algorithm == "grid":
        note("a grid is tried whole", "search.trials", "search.seed")
    if search.algorithm in ("grid", "random"):
        note(f"search.algorithm {search.algorithm} improves nothing", "search.objectives")


def _all_files(config: Config) -> bool:
    """Tell whether every given source is clearly a file, folder or pattern rather than the name of a dataset."""
    from cpl_ray.files import SUFFIXES  # needs pyarrow, and the command line must answer at once

    data = config.data
    sources: list[str] = []
    for given in (data.items, data.mastered, data.mastered_held_out, data.injection, data.injection_held_out):
        sources += [given] if isinstance(given, str) else given or []
    return bool(sources) and all(
        Path(source).suffix.lower() in SUFFIXES or "*" in source or Path(source).expanduser().exists()
        for source in sources
    )
