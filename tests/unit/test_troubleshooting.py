"""Every message that docs/troubleshooting.md explains is one that the code can say."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
CODE = [path.read_text("utf-8") for folder in ("cpl_ray", "pipelines") for path in (ROOT / folder).rglob("*.py")]
# texts that go over several lines of source are one
SAID = " ".join(re.sub(r'"\s+f?"', "", text) for text in CODE)
QUOTED = [
    quoted
    for row in PAGE.splitlines()
    if row.startswith("| `")
    for quoted in re.findall(r"`([^`]+)`", row.split(" | ")[0])
]


def test_the_page_quotes_messages() -> None:
    assert len(QUOTED) > 20


@pytest.mark.parametrize("quoted", QUOTED)
def test_message_is_said_by_the_code(quoted: str) -> None:
    assert quoted in SAID
