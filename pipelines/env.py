"""`cpl env`: what a report of an error should include."""

from typing import Any

from cpl_ray.environment import snapshot
from pipelines.console import AsJson, Outcome, Verbose, execute
from pipelines.tables import print_table

_GIB = 2**30


def env(as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Print versions and machine, for reports of errors. Names no user, host, path or secret."""
    execute(Outcome("env", as_json, verbose), snapshot, _show)


def _show(found: dict[str, Any]) -> None:
    memory = found["memory_bytes"]
    rows = {
        "python": found["python"],
        "platform": found["platform"],
        "CPUs": str(found["num_cpus"]),
        "memory": "unknown" if memory is None else f"{memory / _GIB:.1f} GiB",
        "GPUs": "; ".join(f"{gpu['name']}, {gpu['memory']}, driver {gpu['driver']}" for gpu in found["gpus"]) or "none",
        "git of cpl-ray": _commit(found["git"], "none, an installed package"),
        "git of this folder": _commit(found["project_git"], "no repository"),
        **found["variables"],
        **{name: version or "not installed" for name, version in found["versions"].items()},
    }
    print_table(("what", "value"), rows.items())


def _commit(git: dict[str, Any] | None, otherwise: str) -> str:
    return otherwise if git is None else git["commit"] + (" with changes" if git["dirty"] else "")
