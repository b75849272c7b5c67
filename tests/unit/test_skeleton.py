"""Models without weights: published sizes, and memory of a pass counted on nothing equal to that of the real thing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from cpl_ray.activations import Pass, Working, working_memory
from cpl_ray.calibration import batch_of
from cpl_ray.config import Config
from cpl_ray.errors import ConfigError
from cpl_ray.live_bytes import LiveBytes
from cpl_ray.loss import supervised_cross_entropy
from cpl_ray.model_shapes import SHAPES
from cpl_ray.skeleton import architecture, census_of, skeleton

PUBLISHED = {"Qwen2.5-1.5B": 1.54, "Qwen2.5-3B": 3.09, "Qwen2.5-7B": 7.61, "Llama-3.2-1B": 1.24, "Llama-3.2-3B": 3.21}
SMALL: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("name", SHAPES)
def test_built_in_shapes_have_the_published_number_of_parameters(name: str) -> None:
    config = Config.model_validate({"model": name})
    settings, source = architecture(config)
    counted = census_of(skeleton(config, settings))
    billions = PUBLISHED[name.partition("/")[2].removesuffix("-Instruct")]
    assert abs(counted.total / 1e9 - billions) < 0.01, "published numbers are cut or rounded to two digits"
    assert counted.trainable == counted.total == sum(counted.by_kind().values())
    assert counted.tied is (billions != 7.61)
    assert "built-in table" in source


def test_a_model_nobody_knows_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"'nobody/knows' cannot be read.*Qwen/Qwen2\.5-1\.5B"):
        architecture(Config.model_validate({"model": "nobody/knows"}))


@pytest.mark.parametrize(("adapter", "trained"), [("lora", 4 * (32 + 32)), ("osft", 32 * 32)])
def test_adapters_are_counted_apart(adapter: str, trained: int) -> None:
    adapted = {"name": adapter, "rank": 4, "targets": ["q_proj"]}
    config = Config.model_validate({"model": "m", "adapter": adapted})
    counted = census_of(skeleton(config, LlamaConfig(**SMALL)))
    assert counted.trainable == 3 * trained
    assert counted.by_kind()["adapter"] >= counted.trainable


def real_peak(config: Config, settings: Any, shape: Pass, *, checkpointing: bool) -> Working:
    """Count a real pass of the training loop's own loss on the CPU."""
    dtype = torch.bfloat16 if config.train.dtype == "bfloat16" else torch.float32
    model = AutoModelForCausalLM.from_config(settings, dtype=dtype).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    batch = batch_of(shape)
    batch.attention_mask[0, -1] = 0  # padding, so that the mask is not left out
    live = LiveBytes([*model.parameters(), *model.buffers()])
    with live:
        output = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            use_cache=False,
            logits_to_keep=batch.positions,
        )
        loss = supervised_cross_entropy(output.logits, batch.labels)
        del output
        loss.backward()
    gradients = sum(param.grad.nbytes for param in model.parameters() if param.grad is not None)
    return Working(live.peak - gradients, 0)


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_memory_of_a_pass_is_that_of_a_real_one(kind: Any, dtype: str, checkpointing: bool) -> None:
    config = Config.model_validate({"model": "m", "train": {"dtype": dtype}})
    settings, shape = kind(**SMALL), Pass(4, 40, 5, 20)
    planned = working_memory(config, settings, shape, checkpointing=checkpointing)
    measured = real_peak(config, settings, shape, checkpointing=checkpointing)
    assert planned.beside_gradients == pytest.approx(measured.beside_gradients, rel=0.05)
    assert planned.freed_gradients > 0


def test_memory_of_a_pass_is_linear_in_rows_and_checkpointing_saves() -> None:
    config, settings = Config.model_validate({"model": "m"}), LlamaConfig(**SMALL)
    one, two, four = (
        working_memory(config, settings, Pass(rows, 40, 5, 5 * rows), checkpointing=False) for rows in (4, 8, 16)
    )
    assert one.plus(two, 3).beside_gradients == pytest.approx(four.beside_gradients, rel=0.02)
    saved = working_memory(config, settings, Pass(16, 40, 5, 80), checkpointing=True)
    assert saved.beside_gradients < four.beside_gradients / 1.5
