"""The loop keeps the model of the right evaluation (one process, plain torch)."""

import copy

import torch

from cpl_ray.config import Config
from cpl_ray.loop import TrainingLoop
from tests.oracle.plain_engine import PlainEngine
from tests.oracle.toy import Rowset, toy_items, toy_model

MASTERED, INJECTION = toy_items(7, seed=1), toy_items(5, seed=2)
# learned of 10, forgotten of 20, by evaluation: before training, then after every update
COUNTS = [(0, 0), (2, 1), (4, 1), (7, 9), (5, 1), (5, 0)]


def test_the_weights_are_those_of_the_best_evaluation_inside() -> None:
    tree = {
        "model": "toy",
        "train": {"max_steps": 5, "micro_batch_size": 5, "keep_inside_budget": True},
        "evaluate": {"every": 1},
        "optimizer": {"lr": 1e-2},
        "budget": {"max_forgetting": 0.05},
    }
    config, model = Config.model_validate(tree), toy_model()
    evaluations, seen, kept = iter(COUNTS), [], []

    def evaluate() -> dict[str, float]:
        seen.append(copy.deepcopy(model.state_dict()))
        learned, forgotten = next(evaluations)
        return {"learned": learned, "learned_of": 10, "forgotten_validation": forgotten, "forgotten_validation_of": 20}

    def keep() -> None:
        kept.append(copy.deepcopy(model.state_dict()))

    engine = PlainEngine(model, config)
    loop = TrainingLoop(config, engine, Rowset(INJECTION), Rowset(MASTERED), pad_id=0, evaluate=evaluate, keep=keep)
    state = loop.run()
    assert (state.inside_budget["step"], state.inside_budget["learned"]) == (4, 5)
    assert len(kept) == 3  # of the evaluations after updates 1, 2 and 4
    for weights, step in zip(kept, (1, 2, 4), strict=True):
        assert all(torch.equal(weights[name], value) for name, value in seen[step].items())
    assert not all(torch.equal(kept[-1][name], value) for name, value in model.state_dict().items())
