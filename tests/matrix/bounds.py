"""What pyproject.toml states of dependencies, as constraints for pip."""

import tomllib
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
Side = Literal["lower", "upper"]
RUNNERS = ("pytest", "pytest-timeout", "hypothesis")
"""Of the extra `dev`: what the tests themselves need."""


def stated() -> list[Requirement]:
    """Return the requirements of cpl-ray and of its tests, as pyproject.toml has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    runners = [one for one in map(Requirement, project["optional-dependencies"]["dev"]) if one.name in RUNNERS]
    return [*map(Requirement, project["dependencies"]), *runners]


def lowest(requirement: Requirement) -> str:
    """Return the lowest version that a requirement allows.

    Raises:
        ValueError: it names none.
    """
    found = [one.version for one in requirement.specifier if one.operator == ">="]
    if len(found) != 1:
        raise ValueError(f"pyproject.toml: {requirement} has to name one lowest version, as name>=1.2")
    return found[0]


def pinned(name: str) -> str:
    """Return the version of a package in constraints.txt.

    Raises:
        KeyError: it is not there.
    """
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    return pins[name]


def constraints(side: Side, torch: str) -> str:
    """Return the lines of a constraints file: every stated package at its lowest version, or none but torch.

    Args:
        side: `lower`, or `upper`: the newest that pip finds within the ranges.
        torch: version of torch at both ends; its builds without CUDA are not in every index at every version.
    """
    pins = {one.name: lowest(one) for one in stated()} if side == "lower" else {}
    return "".join(f"{name}=={version}\n" for name, version in (pins | {"torch": torch}).items())
