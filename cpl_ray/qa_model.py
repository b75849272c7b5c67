"""The registered model: an MLflow pyfunc that answers questions exactly as the scorer did when it was measured.

Models-from-code: MLflow runs this file when it loads the model; the Hugging Face folder, the settings of the scorer and
a copy of this package travel with it.
"""

import json
from typing import Any

import mlflow.models
import pandas as pd
import torch
from mlflow.pyfunc import PythonModel, PythonModelContext

from cpl_ray.config import Config
from cpl_ray.encoding import GENERATING, Encoder
from cpl_ray.items import Item
from cpl_ray.model import item_max_length, load_model, load_tokenizer
from cpl_ray.predict import Scorer

MODEL = "hf_model"
SETTINGS = "settings"
COLUMNS = ("question", "choices", "cloze", "prompt")
# The scorer wants to know the right answer, of which nothing but the verdict depends, and that is not used here.
_UNKNOWN = "?"


def settings_of(config: Config, scorer: str) -> dict[str, Any]:
    """Return the part of a run's configuration that decides how questions are asked, with the scorer resolved."""
    return {
        "data": config.data.model_dump(include={"max_length", "over_long", "append_eos"}),
        "prompt": config.prompt.model_dump(),
        "assess": {**config.assess.model_dump(include={"batch_size", "max_new_tokens"}), "scorer": scorer},
        "train": config.train.model_dump(include={"dtype"}),
        "trust_remote_code": config.trust_remote_code,
    }


class QuestionAnswerer(PythonModel):
    """Answers rows of questions: the best of the given choices by the run's scorer, else greedily generated text."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load model, tokenizer and settings; onto the first GPU if there is one."""
        with open(context.artifacts[SETTINGS], encoding="utf-8") as stream:
            settings = json.load(stream)
        folder = context.artifacts[MODEL]
        self.config = Config.model_validate({**settings, "model": folder})
        self.tokenizer = load_tokenizer(self.config)
        self.model: torch.nn.Module = load_model(
            folder, dtype=self.config.train.dtype, trust_remote_code=self.config.trust_remote_code
        )
        self.max_length = item_max_length(self.config, self.model.config, self.tokenizer)
        if torch.cuda.is_available():
            torch.nn.Module.cuda(self.model)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[str | None]:
        """Answer each row.

        Args:
            context: as given to `load_context`.
            model_input: columns `question`, or `cloze` (a statement to be completed), or `prompt` (taken as it is);
                optionally `choices`, a list of texts.
            params: `max_new_tokens`, longest generated answer in tokens.

        Returns:
            One answer per row: a choice as given, or text; None where a row cannot be asked (e.g. it is too long).

        Raises:
            ValueError: a row asks nothing.
        """
        scorer = self.config.assess.scorer
        items = [_item(str(row), record) for row, record in enumerate(model_input.to_dict(orient="records"))]
        chosen = [item for item in items if item.choices and scorer not in GENERATING]
        generated = [item for item in items if not item.choices or scorer in GENERATING]
        max_new_tokens = int((params or {}).get("max_new_tokens") or self.config.assess.max_new_tokens)
        answers: dict[str, str | None] = {}
        if chosen:
            by = "choice_loglik" if scorer == "auto" else scorer
            for item, verdict in zip(chosen, self._scorer(by, max_new_tokens).score(self.model, chosen), strict=True):
                best = max(range(len(verdict.scores)), key=verdict.scores.__getitem__, default=None)
                answers[item.id] = None if best is None else item.choices[best]
        if generated:
            for verdict in self._scorer("exact_match", max_new_tokens).score(self.model, generated):
                answers[verdict.id] = None if verdict.error is not None else verdict.prediction
        return [answers[item.id] for item in items]

    def _scorer(self, name: str, max_new_tokens: int) -> Scorer:
        encoder = Encoder.of(self.config, self.tokenizer, scorer=name, max_length=self.max_length)
        batch_size = self.config.assess.batch_size
        return Scorer(self.tokenizer, encoder, name=name, batch_size=batch_size, max_new_tokens=max_new_tokens)


def _item(item_id: str, record: dict[str, Any]) -> Item:
    """Make the item that a row asks; absent cells are None or NaN."""
    texts = {name: value for name in ("question", "cloze", "prompt") if isinstance(value := record.get(name), str)}
    if not any(text.strip() for text in texts.values()):
        raise ValueError(f"row {item_id} asks nothing: give it a question, a cloze or a prompt")
    given = record.get("choices")
    choices = () if given is None or isinstance(given, float | str) else tuple(str(choice) for choice in given)
    answer = 0 if choices else None
    target = choices[0] if choices else _UNKNOWN
    question = texts.get("question", "")
    if "prompt" in texts and choices:  # a text that one of the choices goes on
        return Item(item_id, "cloze", question, choices, answer, target, cloze=texts["prompt"])
    if "prompt" in texts:
        return Item(item_id, "completion", target=target, prompt=texts["prompt"])
    if "cloze" in texts:
        return Item(item_id, "cloze", question, choices, answer, target, cloze=texts["cloze"])
    return Item(item_id, "multiple_choice", question, choices, answer, target)


mlflow.models.set_model(QuestionAnswerer())
