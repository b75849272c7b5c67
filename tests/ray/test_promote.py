"""The gate on real models, asked again by a real Ray task: a better and a worse one than the champion."""

import json
import logging
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from mlflow import MlflowClient

from cpl_ray.assessment import Row, Verdict, read_assessment, write_assessment
from cpl_ray.config import Config
from cpl_ray.digest import model_digest
from cpl_ray.items import Item
from cpl_ray.ledger import build_ledger, summarise, write_ledger
from cpl_ray.loading import load_config
from cpl_ray.measures import mcnemar_exact
from cpl_ray.model import item_max_length, load_model, load_tokenizer
from cpl_ray.predict import Scorer
from cpl_ray.rundir import RunDir
from pipelines.__main__ import main
from pipelines.stages import promote, register
from tests.ray.conftest import NUM_KNOWN, NUM_UNKNOWN, ROOT, build_model, facts

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
SCORER = "choice_loglik"
ITEMS = [
    Item(row["id"], "cloze", row["question"], tuple(row["choices"]), row["answer"], row["choices"][row["answer"]])
    for row in facts()
]
ITEMS = [replace(item, cloze=row["cloze"]) for item, row in zip(ITEMS, facts(), strict=True)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=200 * 1024**2,
        logging_level=logging.WARNING,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}},
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models: `good` knows what the base model is said to know, `poor` a third of it and all that was injected."""
    folder = tmp_path_factory.mktemp("gate")
    build_model(folder / "good")
    build_model(folder / "poor", range(NUM_KNOWN * 2 // 3, NUM_KNOWN + NUM_UNKNOWN))
    return folder


def finished(world: Path, name: str) -> tuple[Config, RunDir, dict[str, bool]]:
    """Make a run folder as `cpl evaluate` leaves it; returns also which items of M test the model answers."""
    place = {"dir": str(world / "runs"), "name": name}
    assess = {"scorer": SCORER, "batch_size": 8}
    settings = {"model": "base", "assess": assess, "budget": {"min_learned": 0.0}, "run": place}
    (world / f"{name}.yaml").write_text(json.dumps(settings))
    config = load_config(world / f"{name}.yaml", [])
    run = RunDir.create(config)
    shutil.copytree(world / name, run.model)
    before = [Verdict(item.id, index < NUM_KNOWN, "", 0.0) for index, item in enumerate(ITEMS)]
    rows = [Row(*pair) for pair in zip(ITEMS, before, strict=True)]
    parts = {"mastered_test": rows[:NUM_KNOWN], "injection_train": rows[NUM_KNOWN:]}
    write_assessment(run.assessment, parts, {"scorer": SCORER})
    tokenizer, model = load_tokenizer(config, run.model), load_model(run.model)
    length = item_max_length(config, model.config, tokenizer)
    answers = Scorer.of(config, tokenizer, name=SCORER, max_length=length).score(model, ITEMS)
    ledger = build_ledger(read_assessment(run.assessment), {verdict.id: verdict for verdict in answers})
    write_ledger(run.flips, ledger)
    result = {"model_digest": model_digest(run.model), **summarise(ledger)}
    run.result.write_text(json.dumps(result))
    return config, run, {verdict.id: verdict.correct for verdict in answers[:NUM_KNOWN]}


@pytest.mark.usefixtures("cluster")
def test_a_better_and_a_worse_model_than_the_champion(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []

    def say(message: str, *, event: str = "say", **fields: Any) -> None:
        said.append(message)

    poor_config, poor, poor_answers = finished(world, "poor")
    good_config, good, good_answers = finished(world, "good")
    assert sum(good_answers.values()) == NUM_KNOWN
    assert sum(poor_answers.values()) <= NUM_KNOWN // 2
    register(poor_config, poor, say)
    register(good_config, good, say)
    client = MlflowClient(f"sqlite:///{world}/runs/mlflow.db")

    def champion() -> str | None:
        version = client.get_registered_model("cpl-model").aliases.get("champion")
        return None if version is None else str(version)

    assert promote(poor_config, poor, say)["gate"]["admitted"] is False  # far beyond the budget
    assert champion() is None
    loose = {"max_forgetting": 1.0}
    free = poor_config.model_copy(update={"budget": poor_config.budget.model_copy(update=loose)})
    first: dict[str, Any] = promote(free, poor, say)["gate"]
    assert (first["admitted"], first["numbers"]["champion"], champion()) == (True, None, "1")
    noise = first["numbers"]["noise"]["mastered_test"]
    assert noise["evaluation"] == {"changed": 0, "of": NUM_KNOWN}
    assert noise["batch_size_1"]["of"] == NUM_KNOWN
    assert "permuted_options" not in noise

    better = promote(good_config, good, say)["gate"]
    assert (better["admitted"], champion()) == (True, "2")
    table = better["numbers"]["champion"]
    only_good = sum(good_answers[key] and not poor_answers[key] for key in good_answers)
    assert (table["version"], table["only_candidate"], table["only_champion"]) == ("1", only_good, 0)
    assert table["mcnemar_p"] == pytest.approx(mcnemar_exact(only_good, 0))
    assert table["same_test_set"] is True
    assert table["champion_is_base"] is False

    overrides = [f"budget.{key}={value}" for key, value in loose.items()]
    monkeypatch.setattr(sys, "argv", ["cpl", "promote", str(world / "poor.yaml"), *overrides])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert f"only the champion {only_good}, only this one 0" in capsys.readouterr().err
    assert champion() == "2"
    gate = json.loads(poor.result.read_text())["gate"]
    assert (gate["admitted"], gate["worse_than_champion"], len(gate["reasons"])) == (False, True, 1)
    assert client.get_model_version("cpl-model", "1").tags["gate"] == "refused"
    assert ray.is_initialized()  # a session that is open is used and left open
    assert [path.name for path in poor.root.iterdir() if ".part" in path.name] == []

    quick = free.model_copy(update={"budget": free.budget.model_copy(update={"rescore": False})})
    assert promote(quick, poor, say)["gate"]["numbers"]["noise"] is None
    assert champion() == "1"
