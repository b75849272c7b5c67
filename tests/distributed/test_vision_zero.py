"""A vision-language model under ZeRO on two ranks: no hang where a rank has no image, the numbers of plain torch."""

from typing import Any

import pytest
import torch

from cpl_ray.assessment import Verdict
from cpl_ray.config import Config, PromptConfig
from cpl_ray.encoding import Encoded, Encoder
from cpl_ray.items import Item
from cpl_ray.loop import TrainingLoop
from cpl_ray.order import Rows
from cpl_ray.pictures import picture_of
from cpl_ray.predict import Scorer
from cpl_ray.vision import Vision
from tests.distributed.launch import run_workers
from tests.oracle.plain_engine import PlainEngine
from tests.oracle.toy_vision import LENGTH, png, toy_processor, toy_vlm

pytestmark = pytest.mark.distributed
COLOURS = ("red", None, "blue", "lime", None)  # five items, two of them text only: a rank's micro-batch may hold those
STAGES = (2, 3)


def items() -> list[Item]:
    asked = []
    for number, colour in enumerate(COLOURS):
        image = None if colour is None else picture_of(png(colour), None, 10**6)
        asked.append(
            Item(f"i{number}", "multiple_choice", "Which?" * (number + 1), ("no", "yes"), 1, "yes", image=image)
        )
    return asked


def scorer(vision: Vision, name: str) -> Scorer:
    words = vision.processor.tokenizer
    encoder = Encoder(
        words,
        scorer=name,
        prompt=PromptConfig(),
        max_length=LENGTH,
        over_long="cut",
        append_eos=False,
        vision=vision,
    )
    return Scorer(words, encoder, name=name, batch_size=1, max_new_tokens=4)


class Rowset:
    """Encoded items as the loop's row source."""

    def __init__(self, rows: list[Encoded]) -> None:
        self.num_rows, self._rows = len(rows), rows

    def take(self, rows: Rows) -> list[Encoded]:
        return [self._rows[row] for row in rows]


def train(engine: Any, config: Config, vision: Vision) -> None:
    encode = scorer(vision, "choice_loglik").encoder
    rows = [encode.training(item) for item in items()]
    loop = TrainingLoop(config, engine, Rowset(rows[:3]), Rowset(rows[1:]), pad_id=0, vision=vision)
    assert loop.run().moved_against == 0


def config_of(stage: int, micro_batch_size: int, num_workers: int) -> Config:
    return Config.model_validate(
        {
            "model": "toy",
            "zero_stage": stage,
            "optimizer": {"name": "sgd", "lr": 1e-3},
            "cluster": {"num_workers": num_workers},
            # three items in batches of two: in the second update a rank has none at all
            "train": {"epochs": 2, "shuffle": False, "micro_batch_size": micro_batch_size, "mastered_batch_size": 4},
        }
    )


def plain(verdicts: list[Verdict]) -> list[tuple[object, ...]]:
    return [(v.id, v.prediction, v.error, list(v.scores)) for v in verdicts]


def on_rank() -> list[dict[str, Any]]:
    from cpl_ray.collectives import Collectives
    from cpl_ray.engine import ZeroEngine

    results = []
    vision = Vision(toy_processor())
    for stage in STAGES:
        config = config_of(stage, 1, 2)
        engine = ZeroEngine(toy_vlm(), config)
        comm = Collectives(engine.device)
        mine = items()[:1] if comm.rank else items()[1:]
        scored = {
            name: plain(scorer(vision, name).score(engine.module, mine, sync_max=comm.max))
            for name in ("choice_loglik", "exact_match")
        }
        train(engine, config, vision)
        weights = {name: tensor.detach().float().clone() for name, tensor in engine.state_dict().items()}
        results.append({"weights": weights, "scored": scored})
        engine.close()
    return results


def test_two_ranks_score_and_train_as_plain_torch_does() -> None:
    ranks = run_workers(on_rank, 2)
    vision = Vision(toy_processor())
    model = toy_vlm()
    expected = {name: plain(scorer(vision, name).score(model, items())) for name in ("choice_loglik", "exact_match")}
    train(PlainEngine(model, config_of(0, 2, 1)), config_of(0, 2, 1), vision)
    reference = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    untouched = toy_vlm().state_dict()
    for index, stage in enumerate(STAGES):
        for name, verdicts in expected.items():
            scored = ranks[1][index]["scored"][name] + ranks[0][index]["scored"][name]
            assert len(scored) == len(verdicts)
            for (*what, scores), (*reference_what, reference_scores) in zip(scored, verdicts, strict=True):
                assert what == reference_what, f"stage {stage}"
                assert scores == pytest.approx(reference_scores, abs=1e-4), f"stage {stage}"
        found = ranks[0][index]["weights"]
        ours = torch.cat([found[name].reshape(-1) for name in reference])
        theirs = torch.cat([tensor.reshape(-1) for tensor in reference.values()])
        close = (ours - theirs).abs() <= 1e-5 * (theirs.abs() + 1e-3)
        assert float(close.double().mean()) >= 0.999, f"stage {stage}"
        tower = next(
            name for name in reference if name.endswith("vision_model.post_layernorm.weight") or "q_proj" in name
        )
        assert not torch.equal(found[tower], untouched[tower])
