"""The count of drills as a table."""

from collections.abc import Sequence

from tests.drills.drill import Drill


def table(drills: Sequence[Drill]) -> str:
    """Return a Markdown table: job, kind and stage, how often hit and survived, after which updates, exit codes.

    The stage is the one in which it hit; of drills that did not, the one at which they aimed.
    """
    lines = ["| job | kind | stage | hit | survived | updates before | exit codes |", "|---|---|---|---|---|---|---|"]
    cells: dict[tuple[str, str, str], list[Drill]] = {}
    for drill in drills:
        cells.setdefault((drill.verb, drill.kind, drill.stage if drill.found else drill.aim), []).append(drill)
    for (verb, kind, stage), some in cells.items():
        hit = [drill for drill in some if drill.found]
        survived = str(sum(drill.survived for drill in hit)) if hit else "-"
        updates = ", ".join(str(drill.updates) for drill in hit) or "-"
        codes = "; ".join(", ".join(map(str, drill.exit_codes)) for drill in hit)
        codes = codes or ("skipped" if all(drill.skipped for drill in some) else "not hit")
        lines.append(f"| {verb} | {kind} | {stage or '-'} | {len(hit)} | {survived} | {updates} | {codes} |")
    return "\n".join(lines) + "\n"
