"""Where a run's wall time went, for people and programs."""

import json
from typing import Any

from cpl_ray.rundir import RunDir, atomic_write_text
from cpl_ray.stopwatch import Stopwatch
from pipelines.voice import Say


def say_timing(watch: Stopwatch, run: RunDir, say: Say) -> dict[str, Any]:
    """Write `<run>/timing.json`, say it (a line for each phase of 0.05 s and more, and one for the run), return it."""
    timing = watch.to_dict()
    atomic_write_text(run.root / "timing.json", json.dumps(timing, indent=1) + "\n")
    lines = [f"{'seconds':>45} {'model':>8} {'overhead':>9}"]
    rows = [one for one in timing["phases"] if one["wall_s"] >= 0.05] + [{"name": "all", **timing}]
    for one in rows:
        lines.append(f"  {one['name']:<34} {one['wall_s']:8.1f} {one['model_s']:8.1f} {one['overhead_s']:9.1f}")
    say("\n".join(lines), event="timing", **timing)
    return timing
