"""The alias champion in a real registry: moved or not, by one of two at once, and back again."""

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from cpl_ray.config import Config
from cpl_ray.errors import ConfigError, DataError, UserError
from cpl_ray.evidence import Comparison, Evidence, Noise
from cpl_ray.gate import GateVerdict
from cpl_ray.measures import Rate, TwoByTwo
from cpl_ray.promotion import Challenge, promote, rival_folder, rollback
from cpl_ray.registry import register
from pipelines.__main__ import main
from tests.tracking.runs import BAD, GOOD, aliases, make_config, make_model, trained

ROOT = Path(__file__).resolve().parents[2]


def registered(config: Config, *runs: tuple[str, dict[str, Any]]) -> MlflowClient:
    """Register a run after the other, so that the first is version 1; each has another model."""
    for seed, (name, result) in enumerate(runs, 1):
        run_dir = Path(config.run.dir) / name
        run_dir.mkdir()
        run = trained(config, run_dir, result=result, seed=seed)
        register(config, run_dir, run)
    return MlflowClient(run.uri)


def champion(client: MlflowClient) -> str | None:
    return aliases(client).get("champion")


def tags(client: MlflowClient, version: str) -> dict[str, str]:
    return dict(client.get_model_version("cpl-model", version).tags)


@pytest.mark.usefixtures("run_dir")
def test_promote_admits_within_the_budget_and_refuses_otherwise(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    client = registered(config, ("good", GOOD), ("bad", BAD))
    assert not promote(config, tmp_path / "bad").admitted
    assert champion(client) is None
    refused = client.get_model_version("cpl-model", "2")
    assert refused.tags["gate"] == "refused"
    assert "27.5 % (11 of 40)" in refused.tags["gate_reasons"]
    assert "refused" in str(refused.description)

    assert promote(config, tmp_path / "good").admitted
    assert aliases(client) == {"candidate": "2", "champion": "1"}
    gate = json.loads((tmp_path / "good" / "result.json").read_text())["gate"]
    assert (gate["admitted"], gate["reasons"], gate["version"]) == (True, [], "1")
    assert "replaced_champion" not in tags(client, "1")
    assert not promote(config, tmp_path / "bad").admitted
    assert champion(client) == "1"
    assert json.loads((tmp_path / "bad" / "result.json").read_text())["gate"]["admitted"] is False


@pytest.mark.usefixtures("run_dir")
def test_the_verdict_stands_on_the_version_with_its_numbers(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    client = registered(config, ("first", GOOD), ("second", GOOD))
    asked: list[Challenge] = []

    def measure(challenge: Challenge, worse: int = 8) -> Evidence:
        asked.append(challenge)
        noise = Noise({"batch_size_1": Rate(1, 40)}, {"batch_size_1": Rate(2, 10)})
        if challenge.rival is None:
            return Evidence(None, noise)
        with rival_folder(challenge, tmp_path / "second") as folder:
            assert folder is not None
            assert (folder / "model.safetensors").is_file()
        return Evidence(Comparison(str(challenge.rival.version), TwoByTwo(30, 1, worse, 1), same_test_set=True), noise)

    assert promote(config, tmp_path / "first", measure).close_call  # 9 of 10 learned, or only 7
    refused = promote(config, tmp_path / "second", lambda challenge: measure(challenge, worse=12))
    assert refused.worse_than_champion
    assert champion(client) == "1"
    said = client.get_model_version("cpl-model", "2")
    assert said.tags["gate"] == "refused"
    assert "only the champion 12, only this one 1" in said.tags["gate_reasons"]
    numbers = json.loads(said.tags["gate_numbers"])
    assert numbers["champion"]["mcnemar_p"] == pytest.approx(2 * 14 / 2**13)
    assert numbers["noise"]["floor"] == {"mastered_test": 1, "injection_train": 2}
    assert all(text in str(said.description) for text in ("refused", "2.5 % (1 of 40)", "only the champion 12"))
    assert promote(config, tmp_path / "second", lambda challenge: measure(challenge, worse=3)).admitted
    assert tags(client, "2")["replaced_champion"] == "1"
    assert tags(client, "2")["gate"] == "admitted"
    assert promote(config, tmp_path / "second", measure).admitted  # the champion itself has nobody to beat
    assert [None if one.rival is None else str(one.rival.version) for one in asked] == [None, "1", "1", None]
    assert tags(client, "2")["replaced_champion"] == "1"


@pytest.mark.usefixtures("run_dir")
def test_a_champion_that_cannot_be_had_moves_nothing(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    client = registered(config, ("first", GOOD), ("second", GOOD))
    promote(config, tmp_path / "first")

    def measure(challenge: Challenge) -> Evidence:
        with rival_folder(challenge, tmp_path / "second"):
            raise AssertionError("not reached")

    source = str(client.get_model_version("cpl-model", "1").source).removeprefix("file://")
    weights = next(Path(source).rglob("model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(UserError, match=r"champion, version 1 .* not those that were registered"):
        promote(config, tmp_path / "second", measure)
    (Path(source) / "MLmodel").unlink()
    with pytest.raises(UserError, match=r"champion, version 1 .* cannot be loaded"):
        promote(config, tmp_path / "second", measure)
    assert champion(client) == "1"
    assert "gate" not in tags(client, "2")
    assert [path.name for path in (tmp_path / "second").iterdir() if "part" in path.name] == []


@pytest.mark.usefixtures("run_dir")
def test_of_two_promotions_at_once_one_wins_and_the_other_says_so(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    client = registered(config, ("first", GOOD), ("left", GOOD), ("right", GOOD))
    promote(config, tmp_path / "first")
    both_have_read = threading.Barrier(2)

    def measure(challenge: Challenge) -> Evidence:
        assert challenge.champion == "1"
        both_have_read.wait(60)
        return Evidence()

    def attempt(name: str) -> GateVerdict | str:
        try:
            return promote(config, tmp_path / name, measure)
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        left, right = pool.map(attempt, ("left", "right"))
    winner, message = ("2", right) if isinstance(left, GateVerdict) else ("3", left)
    assert isinstance(message, str)
    assert f"version {winner} of 'cpl-model' became champion" in message
    assert "promote again" in message
    assert champion(client) == winner
    loser = {"2": "3", "3": "2"}[winner]
    assert tags(client, winner)["replaced_champion"] == "1"
    assert "gate" not in tags(client, loser)
    assert promote(config, tmp_path / {"2": "left", "3": "right"}[loser]).admitted
    assert tags(client, loser)["replaced_champion"] == winner


@pytest.mark.usefixtures("run_dir")
def test_two_commands_at_once(tmp_path: Path) -> None:
    """Whatever the timing: one command at least wins, who wins is champion, and one that does not says why."""
    config = make_config(tmp_path)
    client = registered(config, ("left", GOOD), ("right", GOOD))
    for name in ("left", "right"):
        settings = {"model": "m", "run": {"name": name, "dir": str(tmp_path)}, "budget": {"rescore": False}}
        (tmp_path / name / "config.yaml").write_text(json.dumps(settings))
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "pipelines", "promote", str(tmp_path / name / "config.yaml"), "--json"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("left", "right")
    ]
    answers = [process.communicate(timeout=250)[0] for process in started]
    codes = [process.returncode for process in started]
    assert sorted(codes) in ([0, 0], [0, 1])
    if 1 in codes:
        assert "became champion while" in json.loads(answers[codes.index(1)])["error"]["message"]
        assert champion(client) == str(codes.index(0) + 1)
    else:  # one after the other
        assert tags(client, str(champion(client)))["replaced_champion"] in ("1", "2")


@pytest.mark.usefixtures("run_dir")
def test_rollback_goes_back_promotion_by_promotion(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    with pytest.raises(UserError, match="no version of 'cpl-model' is champion"):
        rollback(config, tmp_path)
    client = registered(config, *((name, GOOD) for name in ("a", "b", "c")))
    with pytest.raises(UserError, match="no version of 'cpl-model' is champion"):
        rollback(config, tmp_path)
    for name in ("a", "b", "c"):
        promote(config, tmp_path / name)
    done = rollback(config, tmp_path)
    assert (done.name, done.version, done.instead_of) == ("cpl-model", "2", "3")
    assert champion(client) == "2"
    assert tags(client, "3")["rolled_back"] == tags(client, "2")["rolled_back"]
    assert (tags(client, "3")["rolled_back_to"], tags(client, "2")["rolled_back_from"]) == ("2", "3")
    assert rollback(config, tmp_path).version == "1"
    with pytest.raises(UserError, match="version 1 of 'cpl-model' replaced no champion"):
        rollback(config, tmp_path)
    assert aliases(client) == {"candidate": "3", "champion": "1"}

    promote(config, tmp_path / "c")
    client.delete_model_version("cpl-model", "1")
    with pytest.raises(UserError, match=r"version 1 of 'cpl-model', .* has been deleted"):
        rollback(config, tmp_path)
    assert champion(client) == "3"
    client.delete_registered_model_alias("cpl-model", "champion")
    promote(config, tmp_path / "c")  # nobody is replaced, so there is nobody to go back to
    with pytest.raises(UserError, match="replaced no champion"):
        rollback(config, tmp_path)


def test_rollback_by_command(
    tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(tmp_path)
    client = registered(config, ("a", GOOD), ("b", GOOD))
    for name in ("a", "b"):
        promote(config, tmp_path / name)
    (tmp_path / "c.yaml").write_text(json.dumps({"model": "m"}))

    def command(*more: str) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["cpl", "rollback", str(tmp_path / "c.yaml"), *more])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, *capsys.readouterr()

    said = "champion of cpl-model is version 1 again, instead of version 2\n"
    assert command(f"run.dir={tmp_path}") == (0, said, "")
    code, _, err = command(f"run.dir={tmp_path}")
    assert code == 1
    assert "replaced no champion" in err
    assert champion(client) == "1"
    code, _, err = command(f"run.dir={tmp_path}/elsewhere")
    assert code == 1
    assert "there is no MLflow store" in err
    assert not (tmp_path / "elsewhere").exists()
    assert command("tracking.enabled=false")[0] == 3


def test_what_is_missing_is_said(tmp_path: Path, run_dir: Path) -> None:
    config = make_config(tmp_path)
    with pytest.raises(UserError, match="cpl evaluate"):
        promote(config, run_dir)
    (run_dir / "result.json").write_text(json.dumps(GOOD))
    with pytest.raises(UserError, match="cpl register"):
        promote(config, run_dir)
    (run_dir / "registered.json").write_text("{}")
    with pytest.raises(DataError, match=r"registered\.json"):
        promote(config, run_dir)
    (run_dir / "registered.json").write_text('{"name": "cpl-model", "version": "1", "model_digest": "0"}')
    with pytest.raises(UserError, match=r"result\.json .* does not belong to the registered model"):
        promote(config, run_dir)
    (run_dir / "result.json").write_text(json.dumps(GOOD | {"model_digest": "1"}))
    with pytest.raises(UserError, match=r"result\.json .* `cpl evaluate` again"):
        promote(config, run_dir)
    make_model(run_dir / "model")
    with pytest.raises(UserError, match="not the one that was registered"):
        promote(config, run_dir)
    with pytest.raises(ConfigError, match=r"tracking\.enabled"):
        promote(make_config(tmp_path, enabled=False), run_dir)
