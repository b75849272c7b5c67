"""The reports in a real browser: nothing executes but their script, nothing is fetched, and they can be used."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cpl_ray.report import write_report
from tests.report.folders import HOSTILE, make_run, make_sweep

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, which is in cpl-ray[dev]")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
WIDTHS = (1280, 400)
PATIENCE_MS = 120_000
ROWS = "#questions tbody tr"


@dataclass
class Opened:
    """A page, and what happened on it that should not."""

    page: Any
    wrong: list[str] = field(default_factory=list)

    def fits(self) -> bool:
        """Tell whether nothing is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")

    def place(self) -> str:
        return self.page.locator("#place").inner_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, "--disable-sync"])
        sync_api.expect.set_options(timeout=PATIENCE_MS)
        yield chromium
        chromium.close()


def opened(browser: Any, path: Path, width: int) -> Opened:
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(PATIENCE_MS)
    one = Opened(page)

    def dismiss(dialog: Any) -> None:
        one.wrong.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    page.on("console", lambda message: one.wrong.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: one.wrong.append(f"error: {error}"))
    page.on("dialog", dismiss)
    page.on("request", lambda request: one.wrong.append(request.url) if request.url != path.as_uri() else None)
    page.goto(path.as_uri())
    return one


@pytest.mark.parametrize("width", WIDTHS)
def test_a_run_is_searched_filtered_sorted_and_paged(browser: Any, tmp_path: Path, width: int) -> None:
    one = opened(browser, write_report(make_run(tmp_path / "run")), width)
    page = one.page
    assert page.locator(ROWS).count() == 25
    shown = [page.locator(ROWS).nth(n).locator("bdi").first.inner_text() for n in range(len(HOSTILE))]
    assert {text.split()[0] for text in shown} == {text.split()[0] for text in HOSTILE}
    assert page.locator("#questions script, #questions img").count() == 0

    assert one.place() == "1–25 of 120"
    page.get_by_role("button", name="Next").click()
    assert one.place() == "26–50 of 120"
    page.get_by_role("button", name="Previous").click()
    assert page.get_by_role("button", name="Previous").is_disabled()

    page.get_by_label("forgotten 10").check()
    assert one.place() == "1–10 of 10"
    page.get_by_label("Search").fill("</SCRIPT> alert(2)")
    sync_api.expect(page.locator(ROWS)).to_have_count(1)
    assert page.locator("#questions mark").count() > 0
    page.get_by_label("Search").fill("no such question")
    sync_api.expect(page.locator("#nothing")).to_be_visible()
    page.get_by_role("button", name="Show all").click()
    assert one.place() == "1–25 of 120"

    page.get_by_role("combobox", name="Part").select_option("injection (I)")
    assert one.place().endswith("of 28")
    page.get_by_role("combobox", name="Part").select_option("all parts")
    for order, sign in (("largest loss of margin", 1), ("largest gain of margin", -1)):
        page.get_by_role("combobox", name="Order").select_option(order)
        texts = page.locator(f"{ROWS} td:last-child").evaluate_all("all => all.map(e => e.firstChild.textContent)")
        margins = [float(text.replace("−", "-")) * sign for text in texts if text != "–"]
        assert margins == sorted(margins)
    assert one.fits()
    page.locator("summary").last.click()
    assert one.fits()
    assert one.wrong == []
    page.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_sweep_is_sorted(browser: Any, tmp_path: Path, width: int) -> None:
    one = opened(browser, write_report(make_sweep(tmp_path / "sweep")), width)
    button = one.page.get_by_role("button", name="forgotten, held-out")
    cells = "table.sortable tbody td:nth-child(8)"
    for sign in (1, -1):
        button.focus()
        one.page.keyboard.press("Enter")
        orders = one.page.locator(cells).evaluate_all("all => all.map(e => e.dataset.order)")
        values = [float(order) * sign for order in orders if order]
        assert values == sorted(values)
        assert orders[-1] == ""  # the failed trial has no number
    assert one.page.locator("th[aria-sort=descending]").count() == 1
    assert one.page.locator(ROWS).count() == 25
    assert one.fits()
    assert one.wrong == []
    one.page.close()


def test_keyboard_alone_is_enough(browser: Any, tmp_path: Path) -> None:
    one = opened(browser, write_report(make_run(tmp_path / "run")), 1280)
    one.page.get_by_label("all 120").focus()
    one.page.keyboard.press("ArrowRight")
    assert one.place() == "1–10 of 10"
    one.page.keyboard.press("Tab")
    assert one.page.evaluate("document.activeElement.getAttribute('aria-label')") == "Questions"
    one.page.close()


def test_markup_that_got_through_would_stay_inert(browser: Any, tmp_path: Path) -> None:
    path = write_report(make_run(tmp_path / "run"))
    text = path.read_text(encoding="utf-8")
    inserted = "<script>document.title='taken'</script><img src='https://example.org/x' onerror='document.title=1'>"
    path.write_text(text.replace("<main>", "<main>" + inserted), encoding="utf-8")
    one = opened(browser, path, 1280)
    assert one.page.title() == "run – cpl report"
    assert one.page.locator(ROWS).count() == 25
    assert any("Content Security Policy" in text for text in one.wrong)
    one.page.close()


def test_twenty_thousand_questions(browser: Any, tmp_path: Path) -> None:
    one = opened(browser, write_report(make_run(tmp_path / "run", num=20_000)), 400)
    assert one.place() == "1–25 of 20,000"
    one.page.get_by_label("Search").fill("house number 19998?")
    sync_api.expect(one.page.locator(ROWS)).to_have_count(1)
    assert one.page.get_by_role("button", name="Next").is_disabled()
    assert one.fits()
    assert one.wrong == []
    one.page.close()
