"""What `make matrix` installs follows from pyproject.toml: a lowest version for each package, and the tested torch."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.matrix.__main__ import TESTS
from tests.matrix.bounds import ROOT, constraints, lowest, pinned, stated

PYPROJECT = (ROOT / "pyproject.toml").read_text("utf-8")


def test_lower_ends_are_those_of_pyproject() -> None:
    lines = dict(line.split("==") for line in constraints("lower", "2.13.0").splitlines())
    assert lines["torch"] == "2.13.0"
    for name, version in lines.items():
        found = re.search(rf'"{re.escape(name)}(?:\[[\w,]+\])?>=([\d.]+)', PYPROJECT)
        assert found, name
        assert name == "torch" or found[1] == version
    assert {"ray", "deepspeed", "transformers", "mlflow", "datasets", "pytest"} <= set(lines)


def test_upper_ends_are_left_to_pip_but_torch() -> None:
    assert constraints("upper", "2.13.0") == "torch==2.13.0\n"


@pytest.mark.parametrize("requirement", stated(), ids=lambda one: one.name)
def test_the_tested_version_lies_in_the_range(requirement: Requirement) -> None:
    pins = re.findall(r"^([\w.\-]+)==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    found = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins}
    version = found[requirement.name.lower()]
    assert version in requirement.specifier
    assert Version(lowest(requirement)) <= Version(version)


def test_a_requirement_without_a_lowest_version_is_named() -> None:
    with pytest.raises(ValueError, match="torch<3"):
        lowest(Requirement("torch<3"))


def test_named_tests_exist() -> None:
    assert [path for path in TESTS if not Path(ROOT, path.partition("::")[0]).exists()] == []
    assert pinned("torch")
