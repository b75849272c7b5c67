"""A vision-language model: image tokens in place, pictures matter, company does not, the saved folder loads."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, LlamaConfig, Qwen2VLConfig

from cpl_ray.batches import collate
from cpl_ray.cells import RowError
from cpl_ray.collectives import Collectives
from cpl_ray.config import Config, PromptConfig
from cpl_ray.encoding import Encoded, Encoder
from cpl_ray.errors import ConfigError
from cpl_ray.items import Item
from cpl_ray.loop import TrainingLoop
from cpl_ray.loss import IGNORE
from cpl_ray.model import load_model, load_tokenizer, save_model
from cpl_ray.order import Rows
from cpl_ray.pictures import Picture, picture_of
from cpl_ray.predict import Scorer
from cpl_ray.vision import Vision, load_vision
from tests.oracle.plain_engine import PlainEngine
from tests.oracle.toy_vision import IMAGE_TOKEN, LENGTH, NUM_PIECES, png, toy_processor, toy_vlm

VISION = Vision(toy_processor())
SCORERS = ("letter_logit", "choice_loglik", "exact_match", "token_f1")


def picture(colour: str) -> Picture:
    return picture_of(png(colour), None, 10**6)


def item(name: str, colour: str | None, question: str = "Which?") -> Item:
    image = None if colour is None else picture(colour)
    return Item(name, "multiple_choice", question, ("red", "blue!", "no"), 0, "red", image=image)


def encoder(scorer: str, vision: Vision | None = VISION) -> Encoder:
    return Encoder(
        VISION.processor.tokenizer,
        scorer=scorer,
        prompt=PromptConfig(),
        max_length=LENGTH,
        over_long="cut",
        append_eos=False,
        vision=vision,
    )


def scorer(name: str, batch_size: int = 3) -> Scorer:
    return Scorer(
        VISION.processor.tokenizer, encoder(name), name=name, batch_size=batch_size, max_new_tokens=6, min_f1=0.5
    )


def test_ids_are_those_of_the_processor() -> None:
    asked = item("a", "red")
    encoded = encoder("choice_loglik").training(asked)
    assert asked.image is not None
    text = "<image>\nQuestion: Which?\nAnswer: red"
    expected = VISION.processor(images=[[VISION._blank()]], text=[text])["input_ids"][0]
    assert [*encoded.context_ids, *encoded.target_ids] == list(expected)
    assert encoded.context_ids.count(IMAGE_TOKEN) == NUM_PIECES
    assert encoded.image == asked.image


def test_the_cut_counts_image_tokens_and_never_takes_them() -> None:
    encoded = encoder("choice_loglik").training(item("a", "red", "why " * LENGTH))
    assert len(encoded.context_ids) + len(encoded.target_ids) <= LENGTH
    assert encoded.context_ids.count(IMAGE_TOKEN) == NUM_PIECES


def test_image_tokens_in_a_question_and_images_for_a_text_model_are_refused() -> None:
    for colour in ("red", None):
        with pytest.raises(RowError, match="image token exactly once"):
            encoder("choice_loglik").training(item("a", colour, "What is <image> here?"))
    with pytest.raises(RowError, match="image token"):
        encoder("exact_match").training(replace(item("a", "red"), choices=(), kind="question", target="<image>"))
    with pytest.raises(RowError, match="the model takes none"):
        encoder("choice_loglik", vision=None).training(item("a", "red"))


@pytest.mark.parametrize("name", SCORERS)
def test_verdicts_depend_on_the_picture_and_not_on_company(name: str) -> None:
    model = toy_vlm()
    items = [item("r", "red"), item("b", "blue"), item("none", None), item("r2", "red", "Which one is it now?")]
    alone = [scorer(name).score(model, [one])[0] for one in items]
    assert all(verdict.error is None for verdict in alone)
    for batch_size in (1, 2, 4):
        together = scorer(name, batch_size).score(model, items)
        for one, other in zip(together, alone, strict=True):
            assert (one.prediction, one.correct, one.f1) == (other.prediction, other.correct, other.f1)
            np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
    if alone[0].scores:
        assert not np.allclose(alone[0].scores, alone[1].scores, atol=1e-3)


def test_greedy_is_that_of_transformers() -> None:
    model = toy_vlm(seed=3)
    asked = replace(item("r", "red"), choices=(), kind="question")
    batch = collate([encoder("exact_match").training(asked)], 0, VISION)
    context = encoder("exact_match").training(asked).context_ids
    out = model.generate(
        input_ids=torch.tensor([context]), **batch.images, do_sample=False, max_new_tokens=6, pad_token_id=256
    )
    reference = VISION.processor.tokenizer.decode(out[0, len(context) :], skip_special_tokens=True)
    lines = reference.strip().splitlines()
    assert scorer("exact_match").score(model, [asked])[0].prediction == (lines[0].strip() if lines else "")


def test_a_batch_without_images_looks_at_a_blank_one_that_changes_nothing() -> None:
    model = toy_vlm()
    texts = [
        encoder("choice_loglik").training(item("a", None)),
        encoder("choice_loglik").training(item("b", None, "?")),
    ]
    batch = collate(texts, 0, VISION)
    assert batch.images["pixel_values"].shape[0] == 1
    assert batch.input_ids.shape[0] == 3
    assert bool((batch.labels[2] == IGNORE).all())
    plain = collate(texts, 0)
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, **batch.images).logits
    reference = model(input_ids=plain.input_ids, attention_mask=plain.attention_mask).logits
    torch.testing.assert_close(logits[:2, plain.positions], reference[:, plain.positions])
    assert collate([], 0, VISION).num_targets == 0


class Rowset:
    """Encoded items as the loop's row source."""

    def __init__(self, rows: list[Encoded]) -> None:
        self.num_rows, self._rows = len(rows), rows

    def take(self, rows: Rows) -> list[Encoded]:
        return [self._rows[row] for row in rows]


def test_cpl_moves_every_part_and_never_against_the_mastered_gradient() -> None:
    model = toy_vlm()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = Config.model_validate(
        {
            "model": "toy",
            "optimizer": {"lr": 3e-3},
            "zero_stage": 0,
            "train": {"epochs": 15, "micro_batch_size": 3, "mastered_batch_size": 3, "schedule": "constant"},
        }
    )
    asked = [replace(item(c, c), choices=(), kind="question", target=c[::-1]) for c in ("red", "blue", "lime")]
    known = [replace(item(c, c), choices=(), kind="question", target="sea") for c in ("navy", "teal")]
    asked.append(replace(item("t", None, "2+2"), choices=(), kind="question", target="4"))
    encode = encoder("exact_match")
    engine = PlainEngine(model, config)
    loop = TrainingLoop(
        config,
        engine,
        Rowset([encode.training(one) for one in asked]),
        Rowset([encode.training(one) for one in known]),
        pad_id=0,
        vision=VISION,
    )
    state = loop.run()
    assert state.moved_against == 0
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert any("vision_tower" in name for name in moved)
    assert any("multi_modal_projector" in name for name in moved)
    assert Collectives(engine.device).world_size == 1


def test_positions_in_three_dimensions_are_refused_by_name(tmp_path: Path) -> None:
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    Qwen2VLConfig(text_config={"rope_parameters": rope}).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"qwen2_vl.*three dimensions"):
        load_vision(Config.model_validate({"model": str(tmp_path)}))


def test_a_text_model_has_no_vision(tmp_path: Path) -> None:
    LlamaConfig().save_pretrained(tmp_path)
    assert load_vision(Config.model_validate({"model": str(tmp_path)})) is None


def test_the_saved_folder_loads_with_its_processor(tmp_path: Path) -> None:
    model = toy_vlm()
    save_model(model, VISION.processor, tmp_path / "m", state_dict=dict(model.state_dict()))
    config = Config.model_validate({"model": str(tmp_path / "m")})
    loaded = load_model(config.model)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "m")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])
        assert torch.equal(tensor, again.state_dict()[name])
    assert AutoProcessor.from_pretrained(tmp_path / "m").image_token == "<image>"
    vision = load_vision(config)
    assert vision is not None
    assert vision.blank_row == VISION.blank_row
    asked = item("r", "red")
    one = scorer("choice_loglik").score(model, [asked])[0]
    other = Scorer.of(config, load_tokenizer(config), name="choice_loglik", max_length=LENGTH, vision=vision).score(
        loaded, [asked]
    )[0]
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
