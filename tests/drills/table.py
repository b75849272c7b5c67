"""The count of drills as a table."""

from collections.abc import Sequence

from tests.drills.drill import Drill


def table(drills: Sequence[Drill]) -> str:
    """Return a Markdown table: job, kind, how often hit and at which stages, how often survived, exit codes."""
    lines = ["| job | kind | hit | survived | stage | exit codes |", "|---|---|---|---|---|---|"]
    for verb, kind in dict.fromkeys((drill.verb, drill.kind) for drill in drills):
        hit = [drill for drill in drills if (drill.verb, drill.kind) == (verb, kind) and drill.found]
        survived = sum(not drill.faults for drill in hit)
        stages = ", ".join(f"{drill.stage} ({drill.updates} updates)" for drill in hit)
        codes = "; ".join(", ".join(map(str, drill.exit_codes)) for drill in hit)
        lines.append(f"| {verb} | {kind} | {len(hit)} | {survived} | {stages or '-'} | {codes or '-'} |")
    return "\n".join(lines) + "\n"
