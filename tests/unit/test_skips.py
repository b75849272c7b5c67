"""Whatever may skip a test is explained in docs/testing.md, and what is explained there is there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SKIPS = re.compile(r"mark\.skip|pytest\.skip\(|importorskip\(|@needs_compiler|xfail")


def test_every_file_that_may_skip_is_explained() -> None:
    table = (ROOT / "docs" / "testing.md").read_text("utf-8").partition("\n| tests |")[2].partition("\n\n")[0]
    explained = set(re.findall(r"`(tests/\S+\.py)`", table))
    files = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py")}
    own = Path(__file__).relative_to(ROOT).as_posix()
    assert {name for name, text in files.items() if name != own and SKIPS.search(text)} == explained
