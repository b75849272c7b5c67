"""The work of `cpl plan`: forecast, time and advice as one result."""

from dataclasses import asdict
from math import ceil
from typing import Any

from cpl_ray.calibration import calibrate
from cpl_ray.config import Config
from cpl_ray.devices import CPU, GIB, Device
from cpl_ray.environment import snapshot
from cpl_ray.errors import ConfigError, UserError
from cpl_ray.forecast import CONTEXT, MARGIN, Choice, Forecast
from cpl_ray.item_sizes import ASSUMED_ITEMS, ASSUMED_TOKENS, RunItems, given_items, read_run_items
from cpl_ray.skeleton import architecture
from cpl_ray.workload import scoring_flops, training_flops
from pipelines.console import Say


def forecast_of(
    config: Config,
    device: Device | None,
    *,
    items: int | None,
    tokens_per_item: int | None,
    known: float,
    utilisation: float,
    say: Say,
) -> dict[str, Any]:
    """Return the result of `cpl plan`; `device` None means this machine's CPUs.

    Raises:
        ConfigError: the model's configuration cannot be read.
    """
    settings, source = architecture(config)
    run_items, origin = _items(config, settings, items, tokens_per_item, known)
    memory = device.memory_bytes if device is not None else _memory_here() // config.cluster.num_workers
    usable = int(memory * (1 - MARGIN)) - (CONTEXT if device is not None else 0)
    say("counting the tensors of a training pass", event="counting")
    forecast = Forecast(config, settings, run_items, on_cpu=device is None, usable_bytes=usable)
    now = forecast.present()
    rows = [_row(forecast, choice) for choice in forecast.choices()]
    recommended = forecast.recommended()
    result: dict[str, Any] = {
        "model": {
            "name": config.model,
            "source": source,
            "parameters": forecast.census.total,
            "trainable": forecast.census.trainable,
            "tied": forecast.census.tied,
            "by_kind": forecast.census.by_kind(),
        },
        "device": {
            "name": CPU if device is None else device.name,
            "memory_bytes": memory,
            "usable_bytes": usable,
            "workers": config.cluster.num_workers,
        },
        "items": {"origin": origin, "notes": run_items.notes},
        "workload": asdict(forecast.workload) | {"trained_tokens": forecast.workload.trained_tokens},
        "batch": {name: asdict(forecast.shape(name)) for name in forecast.micro_batches},
        "configured": _row(forecast, now),
        "memory": rows,
        "recommended": None if recommended is None else _advice(forecast, recommended),
        "remedies": [] if recommended is not None else _remedies(forecast),
    }
    result["items"]["notes"] += forecast.notes
    result["time"] = _measured(forecast, say) if device is None else _estimated(forecast, device, utilisation)
    return result


def _items(config: Config, settings: Any, items: int | None, tokens: int | None, known: float) -> tuple[RunItems, str]:
    if items is not None or tokens is not None:
        number, length = items or ASSUMED_ITEMS, tokens or ASSUMED_TOKENS
        return given_items(config, number, length, known), f"given: {number} items of {length} tokens"
    try:
        return read_run_items(config, settings, known), "read"
    except UserError as error:
        found = given_items(config, ASSUMED_ITEMS, ASSUMED_TOKENS, known)
        reason = str(error).splitlines()[0]
        found.notes.append(f"the items cannot be read ({reason}); give --items and --tokens-per-item")
        return found, f"assumed: {ASSUMED_ITEMS} items of {ASSUMED_TOKENS} tokens"


def _row(forecast: Forecast, choice: Choice) -> dict[str, Any]:
    memory = forecast.memory(choice).to_dict()
    return {
        "stage": choice.stage,
        "offload": choice.offload,
        "bytes": memory,
        "needed_bytes": forecast.needed(choice),
        "fits": forecast.fits(choice),
        "largest_micro_batch": forecast.largest_micro_batch(choice),
    }


def _advice(forecast: Forecast, choice: Choice) -> dict[str, Any]:
    largest = forecast.largest_micro_batch(choice)
    share = ceil(forecast.config.global_batch_size / choice.num_workers)
    micro = min(largest, share)
    return {
        "zero_stage": choice.stage,
        "offload_optimizer": choice.offload,
        "largest_micro_batch_size": largest,
        "micro_batch_size": micro,
        "gradient_accumulation_steps": ceil(share / micro),
    }


def _remedies(forecast: Forecast) -> list[dict[str, Any]]:
    return [{"set": words, "needed_bytes": forecast.needed(choice)} for words, choice in forecast.remedies()]


def _estimated(forecast: Forecast, device: Device, utilisation: float) -> dict[str, Any]:
    """Return seconds by arithmetic over the assumed share of the peak of all workers."""
    config, work = forecast.config, forecast.workload
    text = forecast.settings.get_text_config()
    layers, heads = text.num_hidden_layers, text.num_attention_heads
    width = heads * (text.to_dict().get("head_dim") or text.hidden_size // heads)
    train, score = 0.0, 0.0
    tokens = {"injection": work.injection_tokens, "mastered": work.mastered_tokens}
    for name, batch in forecast.batches.items():
        per_token = batch.targets / batch.padded_tokens
        train += training_flops(
            forecast.census,
            tokens=tokens[name],
            length=batch.length,
            targets=per_token,
            layers=layers,
            width=width,
            checkpointing=config.train.gradient_checkpointing,
        )
        if name == "injection":
            score = scoring_flops(
                forecast.census,
                tokens=work.scored_tokens,
                length=batch.length,
                targets=per_token,
                layers=layers,
                width=width,
            )
    peak = device.peak(config.train.dtype)
    rate = peak * utilisation * config.cluster.num_workers
    return {
        "estimate": True,
        "how": f"arithmetic over {utilisation:.0%} of the peak of {device.name} in {config.train.dtype}, "
        f"{peak / 1e12:g} TFLOP/s, times {config.cluster.num_workers} workers; assumes no waiting for the network",
        "training_flops": train,
        "scoring_flops": score,
        "training_s": train / rate,
        "evaluation_s": score / rate,
        "total_s": (train + score) / rate,
        "per_update_s": train / rate / work.updates,
    }


def _measured(forecast: Forecast, say: Say) -> dict[str, Any]:
    """Return seconds by a short calibration on this machine; none where the model has no room here."""
    config, work, now = forecast.config, forecast.workload, forecast.present()
    if not forecast.fits(now):
        return {"estimate": True, "how": "not measured: the model has no room on this machine", "total_s": None}
    say("timing a few passes and steps on this machine", event="calibrating")
    mastered = forecast.shape("mastered") if "mastered" in forecast.batches else None
    try:
        found = calibrate(config, forecast.settings, forecast.shape("injection"), mastered, updates=work.updates)
    except ConfigError as error:
        return {"estimate": True, "how": f"not measured: {error}", "total_s": None}
    workers, train = config.cluster.num_workers, config.train
    # a micro-batch of average length, as the one timed was of the longest
    ratio = {name: batch.padded_tokens / batch.length for name, batch in forecast.batches.items()}
    per_update = train.gradient_accumulation_steps * found.injection_s * ratio["injection"] + found.update_s
    total = work.updates * per_update
    if mastered is not None:
        passes = ceil(work.mastered_items_per_capture / workers / mastered.rows)
        total += work.captures * (passes * found.mastered_s * ratio["mastered"] + found.capture_s)
    rows = forecast.shape("injection")
    evaluation = work.scored_tokens / workers / (rows.rows * rows.length) * found.forward_s
    return {
        "estimate": True,
        "how": f"{found.rounds} rounds timed in one process here; assumes that every worker has CPUs of its own",
        "calibration": asdict(found),
        "training_s": total,
        "evaluation_s": evaluation,
        "total_s": total + evaluation,
        "per_update_s": total / work.updates,
    }


def _memory_here() -> int:
    found = snapshot()["memory_bytes"]
    return int(found) if found else 16 * GIB
