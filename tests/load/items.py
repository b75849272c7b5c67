"""A run of many items: its ledger, its rates, and a report that a browser can still use."""

import argparse
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cpl_ray.ledger import read_ledger, summarise, write_ledger
from cpl_ray.report import write_report
from tests.report.folders import make_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def run(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """Time what `cpl evaluate` and `cpl report` do with the ledger, and open the report."""
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        begun = time.monotonic()
        result = work()
        seconds[f"{name}_s"] = round(time.monotonic() - begun, 2)
        return result

    made = timed("build_and_write", lambda: make_run(folder / "run", num=chosen.count))
    table = timed("read", lambda: read_ledger(made / "flips.parquet"))
    rates = timed("summarise", lambda: summarise(table))
    timed("write", lambda: write_ledger(made / "flips.parquet", table))
    page = timed("report", lambda: write_report(made))
    faults = []
    if table.num_rows != chosen.count:
        faults.append(f"the ledger has {table.num_rows} rows of {chosen.count}")
    counted = [*rates["forgotten"].values(), rates["learned"]]
    sums = sum(rate["of"] for rate in counted)
    flips = table.column("flip")
    if sums != chosen.count - flips.null_count:
        faults.append(f"the rates count {sums} items, the ledger {chosen.count - flips.null_count}")
    figures: dict[str, Any] = {
        "items": chosen.count,
        "ledger_bytes": (made / "flips.parquet").stat().st_size,
        "report_bytes": page.stat().st_size,
        **seconds,
    }
    if CHROMIUM is not None:
        figures |= looked_at(page, chosen.count, faults)
    return figures | {"faults": faults}


def looked_at(page: Path, count: int, faults: list[str]) -> dict[str, float]:
    """Open the report, search it and page through it; returns the seconds of each."""
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        view = browser.new_page()
        view.set_default_timeout(120_000)
        wrong: list[str] = []
        view.on("pageerror", lambda error: wrong.append(f"error in the page: {error}"))
        begun = time.monotonic()
        view.goto(page.as_uri())
        expect(view.locator("#place")).to_have_text(f"1–25 of {count:,}", timeout=120_000)
        opened = time.monotonic()
        view.get_by_label("Search").fill(f"house number {count - 2}?")
        expect(view.locator("#questions tbody tr")).to_have_count(1, timeout=120_000)
        searched = time.monotonic()
        view.get_by_label("Search").fill("")
        view.get_by_role("button", name="Next").click()
        expect(view.locator("#place")).to_have_text(f"26–50 of {count:,}", timeout=120_000)
        ended = time.monotonic()
        browser.close()
    faults += wrong
    return {
        "open_s": round(opened - begun, 2),
        "search_s": round(searched - opened, 2),
        "next_page_s": round(ended - searched, 2),
    }
