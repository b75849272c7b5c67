"""The model that learned most inside the forgetting budget, measured like the last one."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from cpl_ray.assessment import Assessment, Verdict
from cpl_ray.errors import UserError
from cpl_ray.inside_budget import INSIDE_BUDGET
from cpl_ray.rundir import RunDir


def measured_inside(
    run: RunDir,
    assessment: Assessment,
    last: Mapping[str, Verdict],
    ask: Callable[[str], Mapping[str, Verdict]],
) -> dict[str, Any] | None:
    """Return what the kept model learned and forgot, M test included; None where no evaluation was inside the budget.

    Args:
        run: the trained run.
        assessment: its items, with the base model's verdicts.
        last: verdicts of the last model, taken where the kept one is the same.
        ask: scores all items with the model in a folder.

    Returns:
        `step` (updates done), `learned` and `forgotten` (`held_out`, `validation`, `in_set`) as in result.json.

    Raises:
        UserError: the kept model is gone.
    """
    from cpl_ray.ledger import build_ledger, summarise

    summary = json.loads((run.train / "summary.json").read_text(encoding="utf-8"))
    kept = summary.get("inside_budget")
    if kept is None:
        return None
    folder = run.root / INSIDE_BUDGET
    if kept["step"] == summary["steps"]:
        after = last
    elif (folder / "config.json").is_file():
        after = ask(str(folder))
    else:
        raise UserError(f"the model kept inside the forgetting budget, {folder}, is gone; train again")
    rates = summarise(build_ledger(assessment, after))
    return {"step": kept["step"], "learned": rates["learned"], "forgotten": rates["forgotten"]}
