"""Training runs of a finished run's world (its base model, parts and settings) in this process, on one thread.

For comparisons of settings: the same loop and DeepSpeed engine as `cpl train`, without Ray, tracking and checkpoints.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PreTrainedModel

from cpl_ray.assessment import Row, in_denominator, read_assessment
from cpl_ray.collectives import Collectives
from cpl_ray.config import Config
from cpl_ray.encoding import Encoded, Encoder
from cpl_ray.engine import ZeroEngine
from cpl_ray.evaluation import Evaluator, ScoredItem
from cpl_ray.loop import TrainingLoop
from cpl_ray.model import item_max_length, load_model, load_tokenizer
from cpl_ray.order import Rows
from cpl_ray.predict import Scorer


class EncodedRows:
    """Encoded items in memory as the loop's row source."""

    def __init__(self, rows: list[Row], encoder: Encoder) -> None:
        self._rows = [encoder.training(row.item) for row in rows]
        self.num_rows = len(self._rows)

    def take(self, rows: Rows) -> list[Encoded]:
        """Return rows by number."""
        return [self._rows[row] for row in rows]


class World:
    """One finished run's base model, parts and settings.

    Args:
        run: the run's folder: its `config.yaml` and `assessment` are read.
        model: the base model's folder; None: as the run's settings say.
    """

    def __init__(self, run: Path, model: Path | None = None) -> None:
        values = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        batch = Config.model_validate(values).global_batch_size
        values |= {"zero_stage": 0, "tracking": {"enabled": False}} | ({"model": str(model)} if model else {})
        values["cluster"]["num_workers"] = 1
        values["train"] |= {"micro_batch_size": batch, "gradient_accumulation_steps": 1}
        self._values = values
        self._assessment = read_assessment(run / "assessment")

    def settings(self, train: dict[str, Any], **sections: dict[str, Any]) -> Config:
        """Return the run's settings with changes of `train` and of further sections."""
        values = self._values | {"train": self._values["train"] | train}
        values |= {name: (self._values.get(name) or {}) | keys for name, keys in sections.items()}
        return Config.model_validate(values)

    def prepare(self, config: Config) -> "Prepared":
        """Load the base model and what else a training with these settings needs."""
        model, tokenizer = load_model(config.model), load_tokenizer(config)
        scorer_name = str(self._assessment.manifest["scorer"])
        max_length = item_max_length(config, model.config, tokenizer)
        encoder = Encoder.of(config, tokenizer, scorer=scorer_name, max_length=max_length)
        scorer = Scorer.of(config, tokenizer, name=scorer_name, max_length=max_length)
        return Prepared(config, model, encoder, scorer, self._assessment.parts)

    def train(self, train: dict[str, Any], **sections: dict[str, Any]) -> dict[str, Any]:
        """Train with changed settings of `train` and of further sections; count learned and forgotten items."""
        world = self.prepare(self.settings(train, **sections))
        engine = ZeroEngine(world.model, world.config)
        learned, forgotten = world.counter("injection_train"), world.counter("mastered_train", "mastered_test")
        sources = [world.rows(name) for name in ("injection_train", "mastered_train")]
        loop = TrainingLoop(
            world.config, engine, sources[0], sources[1], pad_id=0, evaluate=lambda: learned.run(engine.module)
        )
        started = time.perf_counter()
        state = loop.run()
        seconds = time.perf_counter() - started
        counts = forgotten.run(engine.module)
        engine.close()
        return {
            "updates": state.step,
            "train_s": round(seconds, 1),
            "learned": state.last_evaluation["learned"],
            "learned_of": state.last_evaluation["learned_of"],
            "held_out_forgotten": counts["forgotten_validation"],
            "held_out_of": counts["forgotten_validation_of"],
            "in_set_forgotten": counts["forgotten_in_set"],
            "in_set_of": counts["forgotten_in_set_of"],
            "collaborative_share": state.mean("collaborative_share"),
            "moved_against": state.moved_against,
            "state": state,
        }


@dataclass(frozen=True)
class Prepared:
    """What a training of a world needs, the base model freshly loaded."""

    config: Config
    model: PreTrainedModel
    encoder: Encoder
    scorer: Scorer
    parts: dict[str, list[Row]]

    def rows(self, part: str) -> EncodedRows:
        """Return a part encoded."""
        return EncodedRows(self.parts[part], self.encoder)

    def counter(self, *names: str) -> Evaluator:
        """Return what counts the items of parts that were learned or forgotten since the assessment."""
        rows = [(name, row) for name in names for row in self.parts[name] if in_denominator(name, row.before)]
        # the evaluator follows training parts only, so a held-out part is counted under the name of one
        alias = {"mastered_test": "mastered_validation"}
        items = [ScoredItem(r.item, alias.get(n, n), r.before.correct) for n, r in rows if r.before is not None]
        return Evaluator(items, self.scorer, Collectives(torch.device("cpu")))
