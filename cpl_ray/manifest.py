"""What an assessment says about itself: model, scorer, prompt, split and counts, and whether it fits a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cpl_ray.config import Config
from cpl_ray.encoding import GENERATING
from cpl_ray.errors import ConfigError
from cpl_ray.split import SetAside

_SOURCES = ("items", "mastered", "mastered_held_out", "injection", "injection_held_out")
_FITTING = ("model", "model_revision", "scorer", "prompt", "prompt_fingerprint", "scoring")


def _settings(config: Config, scorer: str, prompt_fingerprint: str) -> dict[str, Any]:
    """Return what must be equal for verdicts to be comparable; settings without effect on the scorer are null."""
    return {
        "model": config.model,
        "model_revision": config.model_revision,
        "scorer": scorer,
        # absent where unset: assessments of earlier versions know no such key
        "prompt": config.prompt.model_dump(exclude=None if config.prompt.image else {"image"}),
        "prompt_fingerprint": prompt_fingerprint,
        "scoring": {
            "max_length": config.data.max_length,
            "over_long": config.data.over_long,
            "append_eos": config.data.append_eos if scorer in GENERATING else None,
            "max_new_tokens": config.assess.max_new_tokens if scorer in GENERATING else None,
            "permutations": config.assess.permutations if scorer == "letter_logit" else None,
            **({"min_f1": config.assess.min_f1} if scorer == "token_f1" else {}),
        },
    }


def build_manifest(
    config: Config,
    *,
    scorer: str,
    prompt_fingerprint: str,
    num_rows: int,
    num_rejected: int,
    set_aside: Sequence[SetAside] = (),
    letter_report: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the manifest of an assessment but for what `write_assessment` derives from the rows.

    Args:
        config: the run.
        scorer: the resolved scorer, never `auto`.
        prompt_fingerprint: digest of the prompt as the model saw it.
        num_rows: rows read over all sources.
        num_rejected: rows of them that were rejected.
        set_aside: items that were scored or tried but belong to no part.
        letter_report: result of `letter_report`.
    """
    brought = config.data.items is None
    sources = {f"data.{name}": value for name in _SOURCES if (value := getattr(config.data, name)) is not None}
    return {
        **_settings(config, scorer, prompt_fingerprint),
        "sources": sources,
        "brought": brought,
        "seed": None if brought else config.split.seed,
        "split": None if brought else config.split.model_dump(exclude={"seed"}),
        "counts": {
            "rows_read": num_rows,
            "rejected": num_rejected,
            "errors": sum(entry.kind == "error" for entry in set_aside),
            "contradictory": sum(entry.kind == "contradictory" for entry in set_aside),
        },
        "set_aside": [{"id": entry.id, "kind": entry.kind, "reason": entry.reason} for entry in set_aside],
        "letter_report": None if letter_report is None else dict(letter_report),
    }


def check_fits(manifest: Mapping[str, Any], config: Config, *, scorer: str, prompt_fingerprint: str) -> None:
    """Check that an existing assessment was made with the model, scorer and prompt of this run.

    The model is compared by name or folder and revision; its weights are not read.

    Raises:
        ConfigError: names each setting that differs, with both values.
    """
    wanted = _settings(config, scorer, prompt_fingerprint)
    different = [
        f"{name} is {wanted[name]!r} here and {manifest.get(name)!r} there"
        for name in _FITTING
        if wanted[name] != manifest.get(name)
        and not (name == "model" and _same_folder(wanted[name], str(manifest.get(name))))
    ]
    if different:
        raise ConfigError(
            f"data.assessment: {config.data.assessment!r} was made with other settings: {'; '.join(different)}; "
            "use the same settings or leave data.assessment out to score again"
        )


def _same_folder(first: str, second: str) -> bool:
    return Path(first).is_dir() and Path(second).is_dir() and Path(first).samefile(second)
