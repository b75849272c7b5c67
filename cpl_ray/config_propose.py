"""The section of the configuration about a proxy mastered set that the model writes itself."""

from typing import Annotated

from pydantic import Field, field_validator

from cpl_ray.config_types import PositiveInt, Section, Seed, Share


class ProposeConfig(Section):
    """What `cpl propose` writes (docs/propose.md). No effect on other verbs."""

    prompts: str | None = None
    """File of prompts without answers: lines of a .txt, or rows with `question` or `prompt` in JSONL, CSV, TSV, JSON or
    Parquet. Null: the model writes the questions too."""
    items: PositiveInt = 200
    """Items wanted, held-out ones included."""
    held_out: Share = 0.2
    """Share of them for proposed_held_out.jsonl, on which forgetting can be measured (`data.mastered_held_out`)."""
    candidates: PositiveInt | None = None
    """Prompts that are tried at most; null: five for each item wanted, or all rows of `propose.prompts`."""
    template: str = "Question: {question}\nAnswer:"
    """Prompt that a question stands in. The model writes a question where it stands; where the template ends with it,
    the model begins a text instead, and continuing it is the answer. No effect with `prompt.chat`."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Temperature at which questions are sampled; answers are greedy."""
    max_prompt_tokens: PositiveInt = 64
    """Longest sampled question in tokens."""
    seed: Seed = 0
    """Seed of the sampled questions and of the choice of held-out items."""

    @field_validator("template")
    @classmethod
    def _placeholder(cls, template: str) -> str:
        if template.count("{question}") != 1:
            raise ValueError(f"propose.template must contain {{question}} once; got {template!r}")
        return template

    @field_validator("held_out")
    @classmethod
    def _room(cls, share: float) -> float:
        if share == 1:
            raise ValueError("propose.held_out must be below 1: nothing would be left to protect")
        return share
