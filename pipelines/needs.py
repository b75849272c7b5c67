"""`cpl plan`: what a run will need of memory and time, before anything is launched (what it will do: `plan.py`)."""

from typing import Annotated, Any

import typer

from cpl_ray.config import Config
from cpl_ray.devices import CPU, find_device
from cpl_ray.errors import ConfigError
from cpl_ray.loading import load_config
from pipelines.console import AsJson, ConfigPath, Outcome, Overrides, Quiet, Say, Verbose, execute
from pipelines.needs_view import show_needs

Gpu = Annotated[
    str | None,
    typer.Option("--gpu", metavar="NAME", help="Accelerator, e.g. A100-80GB, or cpu: this machine, measured."),
]
MOST_ITEMS = 10_000_000
"""Each is looked at: where it falls in the order, and what it is padded to."""
MOST_TOKENS = 10_000_000
Items = Annotated[int | None, typer.Option(min=2, max=MOST_ITEMS, help="Items in all, where they cannot be read here.")]
Tokens = Annotated[
    int | None,
    typer.Option("--tokens-per-item", min=2, max=MOST_TOKENS, help="Tokens of an item, prompt and answer."),
]
Known = Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of data.items that the model knows already.")]
Utilisation = Annotated[
    float, typer.Option(min=0.01, max=1.0, help="Share of the accelerator's peak that training reaches.")
]


def plan(
    config: ConfigPath,
    overrides: Overrides = None,
    gpu: Gpu = None,
    items: Items = None,
    tokens_per_item: Tokens = None,
    known: Known = 0.5,
    utilisation: Utilisation = 0.4,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Estimate memory per rank by ZeRO stage, tokens and time before launch, and recommend stage and batch.

    Reads the model's configuration only, no weights. Memory is counted tensor by tensor; time is an estimate.
    `cpl validate` says what the run will do and checks its files.
    """
    outcome = Outcome("plan", as_json, verbose, quiet)

    def work() -> dict[str, Any]:
        loaded = load_config(config, overrides or ())
        if gpu is None and loaded.cluster.use_gpu:
            raise ConfigError("name the accelerator of cluster.use_gpu=true, e.g. --gpu A100-80GB; --gpu cpu: none")
        return needs(
            loaded,
            gpu=gpu or CPU,
            items=items,
            tokens_per_item=tokens_per_item,
            known=known,
            utilisation=utilisation,
            say=outcome.say,
        )

    execute(outcome, work, show_needs)


def needs(
    config: Config,
    *,
    gpu: str,
    items: int | None = None,
    tokens_per_item: int | None = None,
    known: float = 0.5,
    utilisation: float = 0.4,
    say: Say,
) -> dict[str, Any]:
    """Return what `config` needs on an accelerator of this name, as a JSON-serialisable mapping.

    Raises:
        ConfigError: no such accelerator, or a model whose configuration cannot be read.
    """
    device = find_device(gpu)  # before anything slow
    from pipelines.forecasting import forecast_of

    return forecast_of(
        config, device, items=items, tokens_per_item=tokens_per_item, known=known, utilisation=utilisation, say=say
    )
