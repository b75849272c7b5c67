"""Memory of the rule's steps over plain fine-tuning: `python -m benchmarks.optimizer_memory`, one flat AdamW partition.

Each kind of training runs in a process of its own, whose highest resident memory the kernel keeps.
"""

import argparse
import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from cpl_ray.environment import snapshot
from cpl_ray.rundir import atomic_write_text

KINDS = ("plain", "rule", "plain, not compiled", "rule, not compiled")
NUM_PARAMS = 100_000_000


def main() -> None:
    """Measure all kinds and write resident and peak bytes per parameter, and their difference to plain training."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.optimizer_memory", description=main.__doc__)
    parser.add_argument("--num-params", type=int, default=NUM_PARAMS)
    parser.add_argument("--kind", choices=KINDS, help="measure this kind here and print it as JSON")
    parser.add_argument("--out", type=Path, default=Path("benchmarks", "results", "optimizer_memory.json"))
    options = parser.parse_args()
    if options.kind:
        print(json.dumps(measure(options.kind, options.num_params)))
        return
    rows = {kind: _in_a_process(kind, options.num_params) for kind in KINDS}
    for kind, row in rows.items():
        plain = rows[kind.replace("rule", "plain")]
        extra = {key: (row[key] - plain[key]) / options.num_params for key in row}
        print(f"{kind}: extra bytes per parameter {extra['state']:.3f} in tensors, {extra['peak']:.3f} at peak")
    record = {"date": datetime.now().isoformat(timespec="seconds"), "num_params": options.num_params}
    atomic_write_text(options.out, json.dumps({**record, "bytes": rows, "environment": snapshot()}, indent=1) + "\n")
    print(f"raw numbers: {options.out}")


def measure(kind: str, num_params: int) -> dict[str, int]:
    """Take three updates, each after a capture with the rule; return bytes of state and of peak resident memory."""
    import torch

    from cpl_ray.methods.base import Method
    from cpl_ray.optimizer import CPLOptimizer, Mode
    from cpl_ray.state_bytes import state_bytes

    rule = kind.startswith("rule")
    param = torch.nn.Parameter(torch.randn(num_params))
    param.grad = torch.randn(num_params)
    compile: Any = "never" if "not compiled" in kind else "always"
    optimizer = CPLOptimizer([param], lr=1e-4, weight_decay=0.01, method=None if rule else Method(), compile=compile)
    for _ in range(3):
        for mode in (Mode.CAPTURE, Mode.UPDATE) if rule else (Mode.UPDATE,):
            optimizer.start(mode)
            optimizer.step()
    return {"state": state_bytes(optimizer), "peak": _peak_bytes()}


def _peak_bytes() -> int:
    """Return the highest resident memory of this process, from Linux."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _in_a_process(kind: str, num_params: int) -> dict[str, int]:
    command = [sys.executable, "-m", "benchmarks.optimizer_memory", "--kind", kind, "--num-params", str(num_params)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


if __name__ == "__main__":
    main()
