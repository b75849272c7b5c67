"""A trial that Ray puts on a node which does not share the sweep's folder fails before it writes anything there."""

from pathlib import Path

import pytest

from cpl_ray import search
from cpl_ray.errors import ConfigError
from cpl_ray.shared_storage import Mark, try_folder

MARK = Mark("/nowhere", ".cpl-storage-1", "another node")


@pytest.mark.parametrize("problem", [None, "run.dir is not on storage that every node shares: node 10.0.0.3: full"])
def test_trial_works_only_where_its_node_shares_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: str | None
) -> None:
    done: list[int] = []
    monkeypatch.setattr(search, "problem_here", lambda mark: problem if mark == MARK else "another mark")
    trial = search._driver(done.append, tmp_path, MARK)
    if problem is None:
        trial({"trial": 3})
    else:
        with pytest.raises(ConfigError, match=r"10\.0\.0\.3: full"):
            trial({"trial": 3})
    assert done == ([] if problem else [3])
    assert list(tmp_path.iterdir()) == []


def test_trying_a_folder_leaves_nothing_but_the_mark(tmp_path: Path) -> None:
    (tmp_path / "mark").write_text("mark")
    assert try_folder(str(tmp_path), "mark", "node") is None
    assert [path.name for path in tmp_path.iterdir()] == ["mark"]
    (tmp_path / "mark").write_text("of somebody else")
    assert try_folder(str(tmp_path), "mark", "node") == f"what this machine wrote to {tmp_path} reads differently there"
    assert "is not to be seen there" in str(try_folder(str(tmp_path), "other", "node"))
