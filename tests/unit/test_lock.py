"""requirements.lock is constraints.txt with hashes, and says nothing of where files come from."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")


def pins(text: str) -> dict[str, str]:
    """Versions by normalised name (PEP 503)."""
    found = re.findall(r"^([\w.\-]+)==([\w.]+)(?: \\)?$", text, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


LOCK = (ROOT / "requirements.lock").read_text("utf-8")
CONSTRAINTS = (ROOT / "constraints.txt").read_text("utf-8")


def test_the_lock_has_every_pin_but_torch() -> None:
    wanted = pins(CONSTRAINTS)
    assert len(wanted) == len([line for line in CONSTRAINTS.splitlines() if line and not line.startswith("#")])
    assert wanted.pop("torch")
    assert pins(LOCK) == wanted, "constraints.txt was changed: `make lock`"


def test_every_line_is_a_pin_with_hashes_and_names_no_place() -> None:
    entries = re.split(r"\n(?=\S)", LOCK.strip())
    assert entries[0].startswith("# ")
    for entry in entries[1:]:
        pin, *hashes = entry.splitlines()
        assert re.fullmatch(r"[\w.\-]+==[\w.]+ \\", pin), pin
        assert hashes, f"{pin} has no hash"
        assert all(HASH.fullmatch(line) for line in hashes), entry
    assert not re.search(r"://|@ |index-url|find-links", LOCK)


def test_make_locked_finds_the_setuptools_that_builds_the_rest() -> None:
    recipe = (ROOT / "Makefile").read_text("utf-8").partition("\nlocked:")[2].partition("\n\n")[0]
    assert recipe.count("--require-hashes --no-deps") == 2
    assert "/^setuptools==/" in recipe
    assert "setuptools" in pins(LOCK)
