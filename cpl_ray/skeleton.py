"""A model from its configuration alone: shapes without weights, so that any size fits on any machine."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from cpl_ray.adapters import adapt
from cpl_ray.census import Census, Weight
from cpl_ray.config import Config
from cpl_ray.errors import ConfigError
from cpl_ray.model import DTYPES
from cpl_ray.model_files import wants_code
from cpl_ray.model_shapes import SHAPES
from cpl_ray.model_source import local_source
from cpl_ray.vision import takes_images


def architecture(config: Config) -> tuple[PretrainedConfig, str]:
    """Return the configuration of `config.model` and where it was found.

    Looked for in this order: the local folder, transformers' cache, the built-in table, the hub.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    folder = local_source(config.model)
    if folder is not None:
        return _read(config, folder, local=True), f"config.json in {config.model}"
    try:
        return _read(config, config.model, local=True), "config.json in the local cache of the hub"
    except ConfigError:
        if config.model in SHAPES:
            shape = dict(SHAPES[config.model])
            return AutoConfig.for_model(shape.pop("model_type"), **shape), "shape from the built-in table"
    return _read(config, config.model, local=False), "config.json from the hub"


def _read(config: Config, source: str | Path, *, local: bool) -> PretrainedConfig:
    try:
        found: PretrainedConfig = AutoConfig.from_pretrained(
            source,
            revision=(config.model_revision or "main") if source == config.model else "main",
            trust_remote_code=config.trust_remote_code,
            local_files_only=local,
        )
    # damaged files and unreachable hubs fail in every way there is; all of them mean the same to the user
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise ConfigError(wants_code(config.model)) from error
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ConfigError(
            f"the configuration of model {config.model!r} cannot be read: {reason} Give a folder with a config.json, "
            f"or one of the models whose shape is built in: {', '.join(SHAPES)}"
        ) from error
    return found


def skeleton(config: Config, settings: PretrainedConfig) -> PreTrainedModel:
    """Return the model that a run trains, adapter included, on the meta device.

    Args:
        config: the run.
        settings: of the model, from `architecture`; not altered.

    Raises:
        ConfigError: transformers knows no such causal language model, or the adapter does not fit it.
    """
    transformers_logging.set_verbosity_error()
    kind: Any = AutoModelForImageTextToText if takes_images(settings) else AutoModelForCausalLM
    with torch.device("meta"):
        try:
            model: PreTrainedModel = kind.from_config(
                settings, dtype=DTYPES[config.train.dtype], trust_remote_code=config.trust_remote_code
            )
        except (ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
            raise ConfigError(f"model {config.model!r} cannot be built from its configuration: {error}") from error
        adapt(model, config.adapter, device="meta")
        model.train()
    return model


def census_of(model: PreTrainedModel) -> Census:
    """Count the parameters of a model."""
    weights = tuple(
        Weight(name, param.numel(), param.requires_grad, param.dim() > 1) for name, param in model.named_parameters()
    )
    head = model.get_output_embeddings()
    tied = head is not None and head.weight is model.get_input_embeddings().weight
    return Census(weights, tied)
