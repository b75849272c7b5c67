"""Work on the cluster with a model: a Ray Data actor pool, the model loaded once per actor, errors kept per row."""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import ray
import ray.data

from cpl_ray.bulk import uncollected
from cpl_ray.config import Config
from cpl_ray.errors import ConfigError, UserError
from cpl_ray.model_source import local_source
from cpl_ray.stopwatch import computed

Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Loaded:
    """What an actor holds when its work is prepared."""

    config: Config
    model: Any
    tokenizer: Any
    vision: Any
    """Makes the inputs of images; None where the model takes none."""
    max_length: int
    """Longest item in tokens."""


_ABOUT = pa.schema([("fatal", pa.string()), ("actor", pa.string()), ("seconds", pa.float64())])
Work = Callable[[list[str]], list[dict[str, Any]]]
"""Makes the result rows of the texts of one block."""


def on_actors(
    blocks: Sequence[Sequence[str]],
    prepare: Callable[..., Work],
    arguments: dict[str, Any],
    *,
    schema: pa.Schema,
    config: Config,
    model_path: str,
    num_actors: int,
    max_length: int | None = None,
) -> Generator[list[dict[str, Any]], None, None]:
    """Do the same work on blocks of texts in parallel.

    Ray must be initialised. The actors take `cluster.cpus_per_worker` CPUs (and a GPU where `cluster.use_gpu`) each;
    nothing else needs a CPU slot, so a pool as large as the cluster works.
    Close what is returned: what is left undone then ends.

    Args:
        blocks: texts that are worked on together.
        prepare: called once in each actor with what is loaded there and `arguments`; returns the work. A function of
            a module, not a closure.
        arguments: keyword arguments of `prepare`.
        schema: of the result rows; columns that tell of the actor are added.
        config: gives compute type and resources.
        model_path: a local folder that every node sees, or a hub id (then of `model_revision`).
        num_actors: the largest number of actors.
        max_length: longest item in tokens; None: `data.max_length`, or the model's own limit.

    Yields:
        Rows of one or more blocks as they come back, in any order.

    Raises:
        ConfigError: the model, its tokenizer or the prompt settings cannot be used.
    """
    # workers have another working folder
    model_path = str(local_source(model_path) or model_path)
    # from_items makes blocks here in the driver; from_arrow would start a task, which needs a CPU and a new process
    dataset = ray.data.from_items([{"texts": list(block)} for block in blocks], override_num_blocks=len(blocks))
    # one progress display is enough, and the caller has it; the options of other datasets are not touched
    dataset.context.enable_progress_bars = False
    dataset.context.enable_operator_progress_bars = False
    dataset.context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # warns of bars that are off
    logging.getLogger("ray.data.exceptions").setLevel(logging.CRITICAL)  # logs a traceback of what it raises as well
    made = dataset.map_batches(
        ModelActor,
        fn_constructor_kwargs={
            "config": config.model_dump(),
            "prepare": prepare,
            "arguments": arguments,
            "schema": pa.unify_schemas([schema, _ABOUT]),
            "model_path": model_path,
            "max_length": max_length,
        },
        batch_size=1,
        batch_format="pyarrow",
        # starts the whole pool at once, yet works with the actors that fit if they do not all fit
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=num_actors, initial_size=num_actors),
        num_cpus=config.cluster.cpus_per_worker,
        num_gpus=1 if config.cluster.use_gpu else 0,
    )
    tables: Iterable[Any] = made.iter_batches(batch_size=None, batch_format="pyarrow")
    seconds: defaultdict[str, float] = defaultdict(float)
    for table in tables:
        rows: list[dict[str, Any]] = table.to_pylist()
        for row in rows:
            fatal, actor, busy = (row.pop(name) for name in _ABOUT.names)
            if fatal is not None:
                raise ConfigError(fatal)
            seconds[actor] += busy
        yield rows
    computed(max(seconds.values(), default=0.0))


class ModelActor:
    """Holds one model and works on blocks of texts with it."""

    def __init__(
        self,
        config: dict[str, Any],
        prepare: Callable[..., Work],
        arguments: dict[str, Any],
        schema: pa.Schema,
        model_path: str,
        max_length: int | None,
    ) -> None:
        """Load model and tokenizer; a failure that the user can act on is kept and reported with the first block."""
        self.schema, self.name = schema, ray.get_runtime_context().get_actor_id() or ""
        self.fatal: str | None = None
        self.work: Work | None = None
        try:
            with uncollected():
                self.work = prepare(_load(Config.model_validate(config), model_path, max_length), **arguments)
        except UserError as error:
            self.fatal = str(error)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the rows of one block, or one row that tells why none of any block can be had."""
        started = time.perf_counter()
        rows: list[dict[str, Any]] = [{"fatal": self.fatal}]
        if self.work is not None:
            try:
                rows = self.work([text for block in batch["texts"].to_pylist() for text in block])
            except UserError as error:
                rows = [{"fatal": str(error)}]
        about = {"actor": self.name, "seconds": (time.perf_counter() - started) / max(1, len(rows))}
        return pa.Table.from_pylist([row | about for row in rows], schema=self.schema)


def _load(config: Config, model_path: str, max_length: int | None) -> Loaded:
    # imported here: the driver and a head node without these packages never need them
    import torch

    from cpl_ray.model import item_max_length, load_model, load_tokenizer
    from cpl_ray.vision import load_vision

    if not config.cluster.use_gpu:
        # every actor would otherwise start a thread for each core of the machine
        torch.set_num_threads(max(1, int(config.cluster.cpus_per_worker)))
    tokenizer = load_tokenizer(config, model_path)
    model = load_model(
        model_path,
        dtype=config.train.dtype,
        revision=config.model_revision,
        trust_remote_code=config.trust_remote_code,
    )
    if config.cluster.use_gpu:
        model.to("cuda")  # type: ignore[arg-type]  # transformers wraps it without types
    limit = max_length or item_max_length(config, model.config, tokenizer)
    return Loaded(config, model, tokenizer, load_vision(config, model_path), limit)


def apart(
    work: Callable[[list[Given]], list[Made]], given: list[Given], failed: Callable[[Given, str], Made]
) -> list[Made]:
    """Do `work` on all together, and on one after the other where that fails, so that a bad one costs only itself.

    Raises:
        UserError: as `work`; it is about all of them.
    """
    try:
        return work(given)
    except UserError:
        raise
    # whatever a model's code or memory raises; a single one's failure is kept with it and shown
    except Exception as error:
        if len(given) == 1:
            return [failed(given[0], f"{type(error).__name__}: {error}".splitlines()[0])]
    return [made for one in given for made in apart(work, [one], failed)]
