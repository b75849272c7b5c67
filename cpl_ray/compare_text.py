"""The tables of a comparison as text: columns and cells for the terminal, Markdown and CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Kind = Literal["at_target", "inside"]
Table = tuple[list[str], list[list[str]]]


def heading(comparison: Mapping[str, Any], kind: str) -> str:
    """Return what a table shows, in a line."""
    if kind == "at_target":
        return (
            f"At equal learning: every method stops at the first evaluation with {100 * comparison['target']:g} % "
            "learned; rates chosen by M validation, forgetting of M test"
        )
    limit = 100 * comparison["budget"]["max_forgetting"]
    return f"Inside {limit:g} % forgetting (of M validation, during training): learned most"


def table_at_target(comparison: Mapping[str, Any]) -> Table:
    """Return columns and rows at equal learning, least held-out forgetting first."""
    reference = comparison["reference"]
    columns = ["method", "rate", "learned", "forgotten held-out", "95 %", "per seed", "in-set", "updates"]
    columns += ["s/update", "state B/param", f"McNemar p, against {reference}" if reference else "McNemar p"]
    rows = []
    for row in comparison["methods"]:
        found = row["at_target"]
        if found is None:
            rows.append([row["method"], "–", _why_not(row), *[""] * (len(columns) - 3)])
            continue
        held_out, in_set = found["forgotten"]["held_out"], found["forgotten"]["in_set"]
        test = row["mcnemar"]
        rows.append(
            [
                row["method"],
                _rate(row, found),
                counted(found["learned"]) + ("" if all(found["reached"]) else ", target missed"),
                counted(held_out),
                interval(held_out),
                listed(found["held_out_per_seed"]),
                counted(in_set),
                listed(found["updates"]),
                number(found["seconds_per_update"], ".3g"),
                number(found["state_bytes_per_param"], ".2f"),
                "" if test is None else f"{test['mcnemar_p']:.2g} ({test['only_second']} : {test['only_first']})",
            ]
        )
    return columns, rows


def table_inside(comparison: Mapping[str, Any]) -> Table:
    """Return columns and rows inside the forgetting budget, most learned first."""
    columns = ["method", "rate", "learned inside", "share", "95 %", "per seed", "forgotten validation"]
    columns += ["forgotten held-out", "updates"]
    rows = []
    known = [row for row in comparison["methods"] if row["inside"] is not None]
    for row in sorted(known, key=lambda row: -(row["inside"]["learned"]["share"] or 0.0)):
        found = row["inside"]
        learned, forgotten = found["learned"], found["forgotten"]
        rows.append(
            [
                row["method"],
                _rate(row, found),
                f"{learned['count']} of {learned['of']}",
                number(learned["share"], ".1%"),
                interval(learned),
                listed(found["learned_per_seed"]),
                counted(forgotten["validation"]),
                counted(forgotten["held_out"]),
                listed(found["updates"]),
            ]
        )
    return columns, rows


def as_markdown(comparison: Mapping[str, Any]) -> str:
    """Return the whole comparison as a Markdown page."""
    seeds = ", ".join(map(str, comparison["seeds"]))
    lines = [
        f"# Comparison {comparison['comparison']}",
        "",
        f"Model {comparison['model']}; seeds {seeds} (rates tuned with the first); "
        f"rates {', '.join(f'{rate:g}' for rate in comparison['rates'])}, * where a method had others.",
    ]
    for kind, (columns, rows) in (("at_target", table_at_target(comparison)), ("inside", table_inside(comparison))):
        lines += ["", f"## {heading(comparison, kind)}", "", _line(columns), _line(["---"] * len(columns))]
        lines += [_line(row) for row in rows]
    lines += ["", "## What follows", "", *(f"- {sentence}" for sentence in comparison["verdicts"])]
    lines += [
        "",
        "Counts are summed over seeds: an item counts once for each. Intervals (Clopper–Pearson, 95 %) and the exact",
        "McNemar test take these counts as independent, which the same item under two seeds is not quite. In",
        "brackets after p: items forgotten only by the method, only by the one it is tested against.",
        "Target missed: at least one seed ended before so much was learned; such a method may look mild for that.",
    ]
    others = [row for row in comparison["methods"] if row["own_rates"]]
    lines += [f"* {row['method']} was tuned over {', '.join(f'{rate:g}' for rate in row['rates'])}." for row in others]
    return "\n".join(lines) + "\n"


def as_csv(comparison: Mapping[str, Any]) -> str:
    """Return both tables as one: a row for each method, a column for every number."""
    sink = io.StringIO()
    table = csv.writer(sink, lineterminator="\n")
    parts = ("held_out", "validation", "in_set")
    per = [name for one in ("learned", *(f"forgotten_{part}" for part in parts)) for name in (one, f"{one}_of")]
    head = ["lr", *per, "held_out_low", "held_out_high", "seeds", "updates"]
    more = ["reached", "seconds_per_update", "state_bytes_per_param", "peak_memory_bytes", "mcnemar_p"]
    table.writerow(["method", "own_rates", *head, *more, *(f"inside_{name}" for name in head)])
    for row in comparison["methods"]:
        found, test = row["at_target"], row["mcnemar"]
        cells = [row["method"], row["own_rates"], *_cells(found, parts, len(head))]
        if found is None:
            cells += [""] * len(more)
        else:
            cells += [sum(found["reached"]), *(found[name] for name in more[1:4])]
            cells.append("" if test is None else test["mcnemar_p"])
        table.writerow([*cells, *_cells(row["inside"], parts, len(head))])
    return sink.getvalue()


def counted(rate: Mapping[str, Any]) -> str:
    """Return a rate as `3 of 241 (1.2 %)`."""
    if not rate["of"]:
        return "–"
    return f"{rate['count']} of {rate['of']} ({100 * rate['share']:.1f} %)"


def interval(rate: Mapping[str, Any]) -> str:
    """Return the interval of a rate in per cent."""
    return "–" if rate["low"] is None else f"{100 * rate['low']:.1f}–{100 * rate['high']:.1f} %"


def listed(values: Sequence[Any]) -> str:
    """Return the numbers of the seeds in a row."""
    return ", ".join("–" if value is None else str(value) for value in values)


def number(value: float | None, form: str) -> str:
    """Return a number in a format, a dash for None."""
    return "–" if value is None else f"{value:{form}}"


def _cells(found: Mapping[str, Any] | None, parts: Sequence[str], width: int) -> list[Any]:
    if found is None:
        return [""] * width
    held_out = found["forgotten"]["held_out"]
    rates = (found["learned"], *(found["forgotten"][part] for part in parts))
    counts = [cell for rate in rates for cell in (rate["count"], rate["of"])]
    return [found["lr"], *counts, held_out["low"], held_out["high"], *map(_joined, (found["seeds"], found["updates"]))]


def _joined(values: Sequence[Any]) -> str:
    return " ".join("-" if value is None else str(value) for value in values)


def _rate(row: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    return f"{found['lr']:g}" + ("*" if row["own_rates"] else "")


def _why_not(row: Mapping[str, Any]) -> str:
    return f"failed ({len(row['failed'])} trials)" if row["failed"] else "not measured"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
