"""Hugging Face causal language models and tokenizers: load them with clear errors, save them whole or not at all."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
)
from transformers.utils import logging as transformers_logging

from cpl_ray.config import Config
from cpl_ray.errors import ConfigError
from cpl_ray.model_files import no_length, wants_code
from cpl_ray.model_source import ADAPTER, local_source
from cpl_ray.rundir import atomic_folder
from cpl_ray.vision import takes_images

if TYPE_CHECKING:  # takes two seconds to import, and who only tokenises never needs it
    from transformers import PreTrainedModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DEFAULT_MAX_LENGTH = 2048
_LENGTH_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
_UNLIMITED = 10**8  # tokenizers without a limit claim about 1e30
_NOT_CAUSAL = re.compile(r"For(MaskedLM|PreTraining|\w*Classification|QuestionAnswering|MultipleChoice)$")


def load_tokenizer(config: Config, path: str | Path | None = None) -> Any:
    """Load the tokenizer of `config.model`, or of the local folder `path`.

    A tokenizer without pad token takes its end token; one that has neither is left without, since padding is always
    masked and any id serves.

    Raises:
        ConfigError: there is no such folder or hub model, or it has no usable tokenizer, or a `model_max_length` that
            is no length.
    """
    name = str(path or config.model)
    folder = local_source(name)
    _quiet()
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder or name,
            revision=None if folder else config.model_revision,
            trust_remote_code=config.trust_remote_code,
        )
    # damaged or foreign files fail in every way there is; all of them mean the same to the user
    except Exception as error:
        raise ConfigError(_failure(name, folder, "tokenizer", error)) from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ConfigError(f"model {name!r} has no tokenizer vocabulary; save the tokenizer beside the model")
    if wrong := no_length(tokenizer.model_max_length):
        raise ConfigError(f"model {name!r}: {wrong}")
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_settings(config: Config) -> PretrainedConfig:
    """Load the model's own configuration, without weights.

    Raises:
        ConfigError: missing, unreachable or damaged; of a kind that transformers does not know; or it needs code of
            its own, which `trust_remote_code` does not allow.
    """
    folder = local_source(config.model)
    _quiet()
    try:
        settings: PretrainedConfig = AutoConfig.from_pretrained(
            folder or config.model,
            revision=(config.model_revision or "main") if folder is None else "main",
            trust_remote_code=config.trust_remote_code,
        )
    # damaged or foreign files fail in every way there is; all of them mean the same to the user
    except Exception as error:
        raise ConfigError(_failure(config.model, folder, "causal language model", error)) from error
    return settings


def load_model(
    path: str | Path,
    *,
    dtype: Literal["float32", "bfloat16"] = "float32",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> "PreTrainedModel":
    """Load a causal or a vision-language model from safetensors, on the CPU and in evaluation mode.

    Args:
        path: a local folder or a hub id.
        dtype: type of the parameters.
        revision: hub revision; ignored for a folder.
        trust_remote_code: let transformers run code shipped with the model.

    Raises:
        ConfigError: missing, unreachable or damaged; no safetensors; not a causal language model; weights missing.
    """
    name = str(path)
    folder = local_source(name)
    if folder and not any(folder.glob("*.safetensors")):
        raise ConfigError(
            f"model {name!r} holds no *.safetensors weights (pickled .bin weights are not loaded: they can run code); "
            "save it again with save_pretrained"
        )
    _quiet()
    try:
        where: dict[str, Any] = {
            "revision": (revision or "main") if folder is None else "main",
            "trust_remote_code": trust_remote_code,
        }
        images = takes_images(AutoConfig.from_pretrained(folder or name, **where))
        kind: Any = AutoModelForImageTextToText if images else AutoModelForCausalLM
        loaded: Any = kind.from_pretrained(
            folder or name,
            dtype=DTYPES[dtype],
            **where,
            use_safetensors=True,
            output_loading_info=True,
        )
    # damaged files fail in every way there is (network, JSON, strict types, shapes, safetensors, imports)
    except Exception as error:
        raise ConfigError(_failure(name, folder, "causal language model", error)) from error
    model, info = loaded
    if model._hf_peft_config_loaded:  # of a hub model; in a folder it is found at once
        raise ConfigError(f"model {name!r} holds a PEFT adapter ({ADAPTER}); merge it first and give the merged model")
    saved_as = [kind for kind in model.config.architectures or [] if _NOT_CAUSAL.search(kind)]
    if saved_as:
        raise ConfigError(f"model {name!r} is a {saved_as[0]}, not a causal language model")
    if missing := sorted(info["missing_keys"]):
        raise ConfigError(
            f"model {name!r} lacks {len(missing)} weights of a causal language model, e.g. {missing[0]!r}; "
            "they would have been random"
        )
    model.eval()
    return model


def model_max_length(config: PretrainedConfig, tokenizer: Any) -> int:
    """Return the longest sequence in tokens that the model takes.

    Args:
        config: the model's own configuration (`model.config`).
        tokenizer: asked where the configuration states no limit.
    """
    text = config.get_text_config()
    for key in _LENGTH_KEYS:
        length = text.to_dict().get(key)
        if isinstance(length, int) and length > 0:
            return length
    length = tokenizer.model_max_length
    return int(length) if length and length < _UNLIMITED else DEFAULT_MAX_LENGTH


def item_max_length(config: Config, model_config: PretrainedConfig, tokenizer: Any) -> int:
    """Return the longest item in tokens: `data.max_length`, or the model's own limit.

    Raises:
        ConfigError: `data.max_length` is beyond the model's limit.
    """
    limit = model_max_length(model_config, tokenizer)
    if config.data.max_length is None:
        return limit
    if config.data.max_length > limit:
        raise ConfigError(f"data.max_length: {config.data.max_length} is beyond the model's limit of {limit} tokens")
    return config.data.max_length


def save_model(
    model: "PreTrainedModel", tokenizer: Any, folder: str | Path, state_dict: dict[str, torch.Tensor] | None = None
) -> None:
    """Write an ordinary Hugging Face folder (safetensors, tokenizer, generation settings), whole or not at all.

    Args:
        model: gives architecture and settings, and the weights unless `state_dict` is given.
        tokenizer: saved beside the model; the processor of a vision-language model.
        folder: replaced if it exists.
        state_dict: the full weights, where `model` holds only a partition; not altered.

    Raises:
        OSError: the folder cannot be written.
    """
    weights = dict(model.state_dict() if state_dict is None else state_dict)
    for copy, source in model.all_tied_weights_keys.items():
        # gathered states hold tied weights twice; the copy would be stored twice too
        if copy in weights and source in weights:
            del weights[copy]
    _quiet()
    generation_config = model.generation_config if model.can_generate() else None
    with atomic_folder(folder) as part:
        try:
            if generation_config is not None:
                model.generation_config = GenerationConfig()
            model.save_pretrained(part, state_dict=weights)
        finally:
            if generation_config is not None:
                model.generation_config = generation_config
        if generation_config is not None:
            # written as it came: published models have settings that save_pretrained refuses to write
            generation_config.to_json_file(part / "generation_config.json")
        tokenizer.save_pretrained(part)


def _quiet() -> None:
    """Keep progress bars and load reports of transformers off the terminal; what matters becomes an error here."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def _failure(name: str, folder: Path | None, what: str, error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return wants_code(name)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    reason = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
    if folder:
        return f"model {name!r} cannot be loaded as a {what}: {reason}"
    return (
        f"model {name!r} is no local folder, and loading its {what} from the Hugging Face hub failed: {reason} "
        "Give an existing folder, or check the id, model_revision and the network"
    )
