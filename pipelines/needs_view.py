"""What `cpl plan` shows people: the model, memory by stage, advice, and time."""

from typing import Any

from cpl_ray.devices import GIB
from pipelines.tables import print_table

_ROLES = ("parameters", "masters", "gradients", "moments", "mastered", "guard", "buckets", "working", "host")
_TITLES = {"mastered": "g_M", "host": "CPU memory"}


def show_needs(result: dict[str, Any]) -> None:
    """Print the result of `cpl plan`."""
    print_table(("run", "value"), _run(result))
    roles = [role for role in _ROLES if any(row["bytes"][role] for row in result["memory"])]
    titles = [_TITLES.get(role, role) for role in roles]
    print("\nmemory of one rank in GiB, counted by tensors; working: activations, logits and temporaries, at the peak")
    print_table(
        ("ZeRO stage", *titles, "needed", "fits", "largest micro batch"),
        [_memory_row(row, roles, result["configured"]) for row in result["memory"]],
        numbers=True,
    )
    print_table(("plan", "value"), [*_advice(result), *_time(result["time"])])
    for note in result["items"]["notes"]:
        print(f"note: {note}")


def _run(result: dict[str, Any]) -> list[tuple[str, str]]:
    model, device, work = result["model"], result["device"], result["workload"]
    kinds = ", ".join(f"{kind} {_count(count)}" for kind, count in model["by_kind"].items())
    tied = "; output head tied to the embedding" if model["tied"] else ""
    passes = ", ".join(
        f"{name} {batch['rows']} x {batch['length']} tokens, logits at {batch['positions']}"
        for name, batch in result["batch"].items()
    )
    return [
        ("model", f"{model['name']} ({model['source']})"),
        ("parameters", f"{_count(model['parameters'])}, of them trained {_count(model['trainable'])}{tied}"),
        ("by kind", kinds),
        (
            "device",
            f"{device['workers']} x {device['name']}, {_gib(device['usable_bytes'])} GiB usable of "
            f"{_gib(device['memory_bytes'])}",
        ),
        (
            "items",
            f"{work['injection_items']} to inject, {work['mastered_items']} of M train ({result['items']['origin']})",
        ),
        ("largest passes", passes),
        (
            "updates",
            f"{work['updates']} at most, {work['updates_per_epoch']} per epoch; "
            f"{work['captures']} mastered passes of {work['mastered_items_per_capture']} items",
        ),
        (
            "tokens",
            f"injection {_count(work['injection_tokens'])}, mastered {_count(work['mastered_tokens'])}, "
            f"scored {_count(work['scored_tokens'])} in {work['evaluations']} evaluations",
        ),
    ]


def _memory_row(row: dict[str, Any], roles: list[str], configured: dict[str, Any]) -> tuple[str, ...]:
    same = row["stage"] == configured["stage"] and row["offload"] == configured["offload"]
    name = f"{row['stage']}{', offload' if row['offload'] else ''}{' (configured)' if same else ''}"
    cells = [_gib(row["bytes"][role]) for role in roles]
    return (name, *cells, _gib(row["needed_bytes"]), "yes" if row["fits"] else "no", str(row["largest_micro_batch"]))


def _advice(result: dict[str, Any]) -> list[tuple[str, str]]:
    found = result["recommended"]
    if found is None:
        options = [f"{one['set']} ({_gib(one['needed_bytes'])} GiB)" for one in result["remedies"]]
        words = "; or ".join(options) or "nothing tried fits: take a smaller model or a larger accelerator"
        return [("recommended", "no stage fits as configured"), ("what would fit", words)]
    offload = " offload_optimizer=true" if found["offload_optimizer"] else ""
    return [
        ("recommended", f"zero_stage={found['zero_stage']}{offload}, the fastest that fits"),
        (
            "batch",
            f"train.micro_batch_size={found['micro_batch_size']} "
            f"train.gradient_accumulation_steps={found['gradient_accumulation_steps']} "
            f"(largest that fits: {found['largest_micro_batch_size']})",
        ),
    ]


def _time(time: dict[str, Any]) -> list[tuple[str, str]]:
    if time["total_s"] is None:
        return [("time", time["how"])]
    return [
        (
            "time (estimate)",
            f"{_duration(time['total_s'])}: training {_duration(time['training_s'])}, "
            f"evaluations {_duration(time['evaluation_s'])}",
        ),
        ("one update (estimate)", f"{time['per_update_s']:.3g} s, mastered passes included"),
        ("estimated by", time["how"]),
    ]


def _gib(count: int) -> str:
    return f"{count / GIB:.2f}"


def _count(count: float) -> str:
    for size, unit in ((1e9, " billion"), (1e6, " million")):
        if count >= size:
            return f"{count / size:.2f}{unit}"
    return f"{count:,.0f}"


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
