"""The configuration tree: one typed, frozen model; every default and meaning lives here and in the other `config_*.py`.

Nothing heavy is imported, so anything may validate a run. Loading, overrides and error messages: `loading.py`.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cpl_ray.config_compare import CompareConfig
from cpl_ray.config_methods import MASTERED, AdapterConfig, GuardConfig, Mastered, MethodConfig, Rule
from cpl_ray.config_propose import ProposeConfig
from cpl_ray.config_run import BudgetConfig, ClusterConfig, RunSection, SearchConfig, TrackingConfig
from cpl_ray.config_study import StudyConfig
from cpl_ray.config_types import Count, Every, PositiveInt, Processes, Section, Seed, Share


class DataConfig(Section):
    """Where the questions come from and how rows are read."""

    items: str | list[str] | None = None
    """Items to split by what the model knows: JSONL, Parquet or CSV files, a folder of them, or a `datasets` name."""
    mastered: str | list[str] | None = None
    """Brought mastered set, used whole for training; with `injection` it replaces `items` and the split."""
    mastered_held_out: str | list[str] | None = None
    """Brought mastered items that training never sees; headline forgetting is measured on them."""
    injection: str | list[str] | None = None
    """Brought injection set, used whole for training."""
    injection_held_out: str | list[str] | None = None
    """Brought injection items that training never sees; measures generalisation of what was learned."""
    assessment: str | None = None
    """Assessment folder of an earlier `cpl assess` or run, used instead of scoring again.

    Refused if model, scorer or prompt differ."""
    format: Literal["auto", "multiple_choice", "question", "cloze", "completion", "chat"] = "auto"
    """Row format; `auto` decides per row by the columns present."""
    columns: dict[str, str] = {}
    """Column names that differ from the standard ones, as `standard: yours` (e.g. `question: stem`)."""
    dataset_split: str = "train"
    """Split to read when a source is a `datasets` name. No effect on files."""
    append_eos: bool = False
    """Train the tokenizer's end token after each answer."""
    max_length: PositiveInt | None = None
    """Longest item in tokens, prompt and answer together; null: the model's own limit."""
    over_long: Literal["cut", "reject"] = "cut"
    """What happens to a longer item: cut its question from the left, or set it aside. The answer is never cut."""
    max_image_pixels: Annotated[int, Field(ge=1, le=178_000_000)] = 2**25
    """Largest image in pixels (width times height); rows with a larger one are set aside. Only rows with images."""
    max_rejected: Share = 0.1
    """Error budget: the job stops when a larger share of the rows of a source is malformed."""
    shuffle_window: PositiveInt | None = None
    """Shuffle within consecutive windows of this many rows and keep only one window in memory; null: the whole set."""

    @model_validator(mode="after")
    def _sources(self) -> "DataConfig":
        if (self.mastered is None) != (self.injection is None):
            missing = "data.injection" if self.injection is None else "data.mastered"
            raise ValueError(f"data.mastered and data.injection are brought together; {missing} is missing")
        if self.items is not None and self.mastered is not None:
            raise ValueError("give either data.items (to be split) or data.mastered and data.injection, not both")
        return self


class SplitConfig(Section):
    """How assessed items become parts. No effect on brought sets."""

    mastered_validation: Share = 0.2
    """Share of mastered items for choices and stopping; never trained on."""
    mastered_test: Share = 0.3
    """Share of mastered items for headline forgetting; looked at once, at the end."""
    injection_held_out: Share = 0.0
    """Share of injection items that training never sees."""
    seed: Seed = 0
    """Seed of the split."""

    @model_validator(mode="after")
    def _room_for_training(self) -> "SplitConfig":
        if self.mastered_validation + self.mastered_test >= 1.0:
            total = self.mastered_validation + self.mastered_test
            raise ValueError(
                f"split.mastered_validation + split.mastered_test is {total:g}; it must be below 1 to leave M train"
            )
        if self.injection_held_out >= 1.0:
            raise ValueError("split.injection_held_out must be below 1: nothing would be left to inject")
        return self


class PromptConfig(Section):
    """How an item becomes text."""

    template: str | None = None
    """Prompt of multiple-choice items with `{question}` and optionally `{options}`; null: the scorer's own prompt."""
    image: str | None = None
    """Text that stands for an item's image where no chat template places it; null: the processor's image token and a
    line end. Only vision-language models."""
    chat: bool = False
    """Wrap the prompt as one user turn of the tokenizer's chat template (also prompt/completion rows)."""

    @model_validator(mode="after")
    def _placeholder(self) -> "PromptConfig":
        if self.template is not None and "{question}" not in self.template:
            raise ValueError(f"prompt.template must contain {{question}}; got {self.template!r}")
        return self


class AssessConfig(Section):
    """How answers are scored, before, during and after training."""

    scorer: Literal["auto", "letter_logit", "choice_loglik", "choice_loglik_norm", "exact_match", "token_f1"] = "auto"
    """Scorer; `auto`: `choice_loglik` if every item has choices, else `exact_match`. `exact_match` and `token_f1` let
    the model answer greedily in its own words (docs/beyond_multiple_choice.md)."""
    batch_size: PositiveInt = 16
    """Sequences per forward pass of one scoring process; where prompts are shared, as many as cost no more."""
    num_actors: Processes | None = None
    """Scoring processes; null: `cluster.num_workers`."""
    max_new_tokens: PositiveInt = 32
    """Longest generated answer in tokens; items whose answer is longer cannot be scored. Only `exact_match` and
    `token_f1`."""
    min_f1: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Smallest token F1 (best over the accepted answers) that counts as right. Only `token_f1`."""
    permutations: Annotated[int, Field(ge=0, le=1000)] = 0
    """Further option orders under which an item must be answered rightly to count as mastered. Only `letter_logit`."""


class TrainConfig(Section):
    """The training loop and the rule."""

    rule: Rule = "cpl"
    """`cpl`: only collaborative parameters move; `none`: plain fine-tuning through the same code; the others are the
    methods it is compared with (docs/methods.md)."""
    mask_on: Literal["update", "gradient"] = "update"
    """What is compared with the mastered gradient; `gradient` is an ablation. No effect with rule `none`."""
    mastered_state: Literal["sign", "full", "ema8", "vote"] = "sign"
    """What is kept of the mastered gradient: its sign (3 bits per element, class included) or all of it.

    `full` takes 4 bytes more and adds conflict mass and predicted change to the metrics; `ema8` (1 byte more) takes the
    sign of an exponential average over refreshes, `vote` (1 byte more) that of a vote over refreshes."""
    mastered_average: Annotated[float, Field(ge=0, lt=1)] = 0.8
    """Share of the past that a refresh keeps in the average or in the vote. Only `ema8` and `vote`."""
    vote_majority: Share = 0.5
    """Share of the votes by which one sign must lead; else the vote abstains and the parameter may move.
    Only `vote`."""
    refresh: Every = 1
    """When the mastered gradient is computed: a batch every k updates, or the whole of M train at each `epoch`."""
    epochs: PositiveInt = 25
    """Passes over the injection set."""
    max_steps: PositiveInt | None = None
    """Stop after this many updates, if `epochs` has not ended before."""
    stop_at_learned: Share | None = None
    """Stop when an evaluation finds this share of the injection set learned; null: run all epochs."""
    keep_inside_budget: bool = False
    """Keep, beside the last model, that of the evaluation that learned most while at most `budget.max_forgetting` of M
    validation was forgotten; `evaluate` then measures it too. Writes the weights at each such evaluation."""
    micro_batch_size: PositiveInt = 8
    """Injection items per forward pass of one worker."""
    gradient_accumulation_steps: PositiveInt = 1
    """Micro-batches per worker and update; global batch = micro_batch_size * num_workers * this."""
    mastered_size: PositiveInt | None = None
    """Train with this many items of M train only, chosen by `split.seed`; null: all. A smaller set is contained in
    every larger one; the rest of M train is neither trained on nor scored."""
    mastered_batch_size: PositiveInt = 64
    """Mastered items per refresh, over all workers together. No effect with refresh `epoch`, which uses all."""
    mastered_micro_batch_size: PositiveInt | None = None
    """Mastered items per forward pass of one worker; null: `micro_batch_size`."""
    shuffle: bool = True
    """A new order of the items every epoch, by seed; false: file order."""
    seed: Seed = 0
    """Seed of orders, dropout and any random choice of training."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type; master parameters, moments and reductions are float32 either way."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Clip the injection gradient (unmasked) to this norm; null: no clipping."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning-rate schedule after warm-up, down to zero at the planned last update."""
    warmup_steps: Count = 0
    """Updates over which the rate rises linearly from zero."""
    checkpoint_every: Every | None = "epoch"
    """Updates between checkpoints, or each `epoch`; null: none (the run cannot be resumed)."""
    keep_checkpoints: PositiveInt = 2
    """Checkpoints kept in the run folder."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""


class EvaluateConfig(Section):
    """Evaluation during training, by the same scorer."""

    every: Every | None = "epoch"
    """Updates between evaluations of learned and forgotten (M train and validation), or each `epoch`; null: none."""
    in_set: bool = True
    """Ask M train too; false saves its time: choices look at M validation only. No effect where `every` is null."""


class OptimizerConfig(Section):
    """The optimizer whose update the rule masks."""

    name: Annotated[str, Field(pattern=r"^(sgd|adam|adamw|[A-Za-z_]\w*(\.[A-Za-z_]\w*)+)$")] = "adamw"
    """`sgd`, `adam`, `adamw`, or any other elementwise optimizer as `module.Class`."""
    lr: Annotated[float, Field(gt=0)] = 1e-5
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decay of every parameter: decoupled (inside the masked update) for adamw, added to the gradient otherwise."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay rates of the two moments. Only adam and adamw."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of the second moment. Only adam and adamw."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Momentum without dampening. Only sgd."""
    options: dict[str, Any] = {}
    """Further constructor arguments of a `module.Class` optimizer."""
    compile: Literal["auto", "always", "never"] = "auto"
    """Compile the step into one pass over memory: `auto` from 20 million elements per worker on, or from a thousand
    million elements times planned updates. Only sgd, adam and adamw, and methods that do not change updates in ways of
    their own. In C++ on CPUs, in Triton on GPUs; where that cannot be had the step runs as it is, and says so
    (docs/speed.md)."""


class Config(Section):
    """One run of cpl-ray."""

    model: str
    """Hugging Face model: a local folder or a hub id."""
    model_revision: str | None = None
    """Hub revision. No effect on a local folder."""
    trust_remote_code: bool = False
    """Let transformers run code shipped with the model. Off unless you trust its author."""
    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    prompt: PromptConfig = PromptConfig()
    assess: AssessConfig = AssessConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    method: MethodConfig = MethodConfig()
    adapter: AdapterConfig = AdapterConfig()
    guard: GuardConfig = GuardConfig()
    cluster: ClusterConfig = ClusterConfig()
    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed ZeRO stage."""
    offload_optimizer: bool = False
    """Keep optimizer state and master parameters in CPU memory. Needs ZeRO 1, 2 or 3."""
    deepspeed: dict[str, Any] = {}
    """Free DeepSpeed settings, merged over the derived ones and logged."""
    run: RunSection = RunSection()
    tracking: TrackingConfig = TrackingConfig()
    budget: BudgetConfig = BudgetConfig()
    search: SearchConfig = SearchConfig()
    compare: CompareConfig = CompareConfig()
    study: StudyConfig = StudyConfig()
    propose: ProposeConfig = ProposeConfig()
    gate: bool = False
    """Let `cpl run` judge the model for `champion` at its end, as `cpl promote` does."""

    @property
    def global_batch_size(self) -> int:
        """Injection items per update over all workers."""
        train = self.train
        return train.micro_batch_size * train.gradient_accumulation_steps * self.cluster.num_workers

    @property
    def mastered_passes(self) -> Mastered:
        """How mastered items come into training."""
        return MASTERED[self.train.rule]

    @property
    def running_zero_stage(self) -> int:
        """The stage that really runs: 0 in bfloat16 runs as 1, the lowest that accumulates in float32."""
        return 1 if self.zero_stage == 0 and self.train.dtype == "bfloat16" else self.zero_stage

    @model_validator(mode="after")
    def _combinations(self) -> "Config":
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("offload_optimizer needs zero_stage 1, 2 or 3; got zero_stage 0")
        if self.train.stop_at_learned is not None and self.evaluate.every is None:
            raise ValueError("train.stop_at_learned needs evaluations during training; set evaluate.every")
        return self
