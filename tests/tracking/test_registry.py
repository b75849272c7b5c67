"""Registering and promoting in a real MLflow registry, with a real (random, tiny) model that answers questions."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from cpl_ray.config import Config, PromptConfig
from cpl_ray.digest import model_digest
from cpl_ray.encoding import Encoder
from cpl_ray.errors import UserError
from cpl_ray.items import Item
from cpl_ray.mlflow_client import TrackedRun, version_of
from cpl_ray.model import load_model, load_tokenizer, model_max_length
from cpl_ray.predict import Scorer
from cpl_ray.promotion import set_champion
from cpl_ray.registry import CANDIDATE, register, set_candidate
from tests.ports import free_port
from tests.tracking.runs import GOOD, ask, make_config, make_model, trained, with_config

QUESTIONS = ["Where does the Elbe rise?", "What is {brass} made of?", "Who wrote Emma?", "Which is the largest moon?"]
CHOICES = [
    ("in Poland", "in Czechia"),
    ("tin", "copper and zinc", "iron"),
    ("Austen", "Eliot"),
    ("Titan", "Io", "Ida"),
]


def measured(config: Config, run_dir: Path, items: list[Item], name: str) -> list[Any]:
    """Return the verdicts of the scorer itself."""
    tokenizer, model = load_tokenizer(config, run_dir / "model"), load_model(run_dir / "model")
    encoder = Encoder(
        tokenizer,
        scorer=name,
        prompt=config.prompt,
        max_length=config.data.max_length or model_max_length(model.config, tokenizer),
        over_long=config.data.over_long,
        append_eos=config.data.append_eos,
    )
    scorer = Scorer(tokenizer, encoder, name=name, batch_size=3, max_new_tokens=config.assess.max_new_tokens)
    return scorer.score(model, items)


@pytest.mark.parametrize("name", ["choice_loglik", "choice_loglik_norm", "letter_logit"])
def test_registered_model_chooses_as_the_scorer_did(tmp_path: Path, run_dir: Path, name: str) -> None:
    prompt = PromptConfig(template="{options}\nQ {question}" if name == "choice_loglik" else None)
    config = with_config(make_config(tmp_path), prompt=prompt, data={"max_length": 120})
    run = trained(config, run_dir, scorer=name)
    registered = register(config, run_dir, run)
    assert (registered.name, registered.version, registered.uri) == ("cpl-model", "1", "models:/cpl-model/1")
    frame = pd.DataFrame({"question": QUESTIONS * 2, "choices": [list(c) for c in CHOICES] * 2})
    items = [
        Item(str(row), "multiple_choice", question, choices, len(choices) - 1, choices[-1])
        for row, (question, choices) in enumerate(zip(QUESTIONS, CHOICES, strict=True))
    ]
    best = [int(np.argmax(verdict.scores)) for verdict in measured(config, run_dir, items, name)]
    expected = [item.choices[index] for item, index in zip(items, best, strict=True)]
    assert ask(run, "candidate", frame) == expected * 2


def test_registered_model_generates_as_the_scorer_did(tmp_path: Path, run_dir: Path) -> None:
    config = with_config(make_config(tmp_path), assess={"max_new_tokens": 6})
    run = trained(config, run_dir, scorer="exact_match")
    register(config, run_dir, run)
    items = [
        Item("q", "multiple_choice", QUESTIONS[0], target="x"),
        Item("c", "cloze", target="x", cloze="The Elbe rises"),
        Item("p", "completion", target="x", prompt="def f(x):"),
    ]
    frame = pd.DataFrame([{"question": QUESTIONS[0]}, {"cloze": "The Elbe rises"}, {"prompt": "def f(x):"}])
    verdicts = measured(config, run_dir, items, "exact_match")
    assert [verdict.error for verdict in verdicts] == [None] * 3
    answers = ask(run, "candidate", frame)
    assert answers == [verdict.prediction for verdict in verdicts]
    assert any(answers)
    longer = ask(run, "candidate", frame, max_new_tokens=12)
    assert all(long.startswith(short) for long, short in zip(longer, answers, strict=True))
    assert any(len(long) > len(short) for long, short in zip(longer, answers, strict=True))


def test_rows_with_and_without_choices_and_rows_that_ask_nothing(tmp_path: Path, run_dir: Path) -> None:
    config = make_config(tmp_path)
    run = trained(config, run_dir)
    register(config, run_dir, run)
    mixed = pd.DataFrame({"question": QUESTIONS[:2], "choices": [["tin", "iron"], None]})
    chosen, generated = ask(run, "candidate", mixed)
    assert chosen in ("tin", "iron")
    assert isinstance(generated, str)
    assert ask(run, "candidate", pd.DataFrame({"question": ["long " * 2000], "choices": [["a" * 900, "b"]]})) == [None]
    with pytest.raises(ValueError, match="row 1 asks nothing"):
        ask(run, "candidate", pd.DataFrame({"question": ["one", " "]}))


def test_version_carries_the_folder_the_tags_and_no_secret(tmp_path: Path, run_dir: Path) -> None:
    config = make_config(tmp_path)
    run = trained(config, run_dir, scorer="choice_loglik", result=GOOD)
    registered = register(config, run_dir, run)
    client = MlflowClient(run.uri)
    version = client.get_model_version_by_alias("cpl-model", "candidate")
    assert version.version == int(registered.version) or version.version == registered.version
    assert version.run_id == run.run_id
    assert version.tags["run_name"] == "r"
    assert version.tags["scorer"] == "choice_loglik"
    assert version.tags["learned"] == "0.9000 (9 of 10)"
    assert version.tags["forgotten_held_out"] == "0.0250 (1 of 40)"
    assert version.description == "r: forgotten_held_out 0.0250 (1 of 40), learned 0.9000 (9 of 10)"
    outputs = client.get_run(run.run_id).outputs
    assert outputs is not None
    assert len(outputs.model_outputs) == 1
    logged = client.get_logged_model(outputs.model_outputs[0].model_id)
    folder = Path(logged.artifact_location.removeprefix("file://"))
    assert model_digest(folder / "artifacts" / "model") == model_digest(run_dir / "model")
    requirements = (folder / "requirements.txt").read_text().splitlines()
    assert any(line.startswith("transformers==") for line in requirements)
    assert not any("+" in line for line in requirements)
    assert (folder / "code" / "cpl_ray" / "predict.py").is_file()
    assert not list(folder.rglob("__pycache__"))
    assert str(tmp_path) not in (folder / "artifacts" / "settings.json").read_text()
    saved = json.loads((run_dir / "registered.json").read_text())
    assert (saved["name"], saved["version"], saved["run_id"]) == ("cpl-model", "1", run.run_id)
    assert sorted(path.name for path in run_dir.iterdir() if "part" in path.name) == []
    assert mlflow.active_run() is None


def test_loads_elsewhere_with_the_code_that_came_along(tmp_path: Path, run_dir: Path) -> None:
    config = make_config(tmp_path)
    run = trained(config, run_dir)
    register(config, run_dir, run)
    script = (
        "import mlflow, pandas\n"
        f"mlflow.set_tracking_uri({run.uri!r})\n"
        "model = mlflow.pyfunc.load_model('models:/cpl-model@candidate')\n"
        "import cpl_ray; assert '/code/cpl_ray/' in cpl_ray.__file__, cpl_ray.__file__\n"
        "print(model.predict(pandas.DataFrame({'question': ['Who wrote Emma?'], 'choices': [['Austen', 'Eliot']]})))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("['Austen']", "['Eliot']")


def test_registering_again_reuses_the_version_until_the_model_changes(tmp_path: Path, run_dir: Path) -> None:
    config = make_config(tmp_path)
    run = trained(config, run_dir)
    first = register(config, run_dir, run)
    (run_dir / "model" / "README.md").write_text("# another card")
    assert register(config, run_dir, run) == first
    make_model(run_dir / "model", seed=1)
    second = register(config, run_dir, run)
    assert second.version == "2"
    client = MlflowClient(run.uri)
    assert str(client.get_model_version_by_alias("cpl-model", "candidate").version) == "2"
    client.delete_model_version("cpl-model", "2")
    assert register(config, run_dir, run).version != "2"


@pytest.mark.parametrize("where", ["set_model_version_tag", "set_registered_model_alias"])
@pytest.mark.parametrize("served", [False, True], ids=["sqlite", "server"])
def test_a_version_that_a_killed_command_could_not_note_is_found_again(
    tmp_path: Path, run_dir: Path, request: pytest.FixtureRequest, where: str, *, served: bool
) -> None:
    config = make_config(tmp_path)
    if served:
        config = make_config(tmp_path, uri=request.getfixturevalue("server").uri)
    run = trained(config, run_dir)
    (tmp_path / "config.json").write_text(config.model_dump_json())
    script = (
        "import os, sys; from pathlib import Path\n"
        "from mlflow import MlflowClient\n"
        "from cpl_ray.config import Config; from cpl_ray.mlflow_client import TrackedRun\n"
        "from cpl_ray.registry import register\n"
        f"MlflowClient.{where} = lambda *_: os.kill(os.getpid(), 9)\n"
        "config = Config.model_validate_json(Path(sys.argv[1], 'config.json').read_text())\n"
        "run_dir = Path(sys.argv[2]); register(config, run_dir, TrackedRun.load(run_dir, sys.argv[3]))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path), str(run_dir), run.uri]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (run_dir / "registered.json").exists()
    assert register(config, run_dir, run).version == "1"
    client = MlflowClient(run.uri)
    assert len(client.search_model_versions("name = 'cpl-model'")) == 1
    assert str(client.get_model_version_by_alias("cpl-model", "candidate").version) == "1"
    (run_dir / "registered.json").unlink()
    make_model(run_dir / "model", seed=1)
    assert register(config, run_dir, run).version == "2"
    (run_dir / "registered.json").unlink()
    other = with_config(config, assess={"max_new_tokens": 6})
    assert register(other, run_dir, run).version == "3"
    (run_dir / "registered.json").unlink()
    assert register(other, run_dir, run).version == "3"


@pytest.mark.parametrize(("alias", "set_alias"), [(CANDIDATE, set_candidate), ("champion", set_champion)])
def test_many_at_once_may_set_an_alias_first(tmp_path: Path, alias: str, set_alias: Callable[..., None]) -> None:
    """Without care MLflow refuses one in ten here: `UNIQUE constraint failed: registered_model_aliases`."""
    uri, writers, models = f"sqlite:///{tmp_path}/mlflow.db", 8, 15
    client = MlflowClient(uri)
    for number in range(models):
        client.create_registered_model(f"m{number}")
    together = threading.Barrier(writers)

    def write(_: int) -> list[str]:
        own, said = MlflowClient(uri), []
        for number in range(models):
            version = own.create_model_version(f"m{number}", str(tmp_path)).version
            together.wait(60)
            try:
                set_alias(own, f"m{number}", str(version))
            except UserError as error:
                said.append(str(error))
        return said

    with ThreadPoolExecutor(writers) as pool:
        said = [line for lines in pool.map(write, range(writers)) for line in lines]
    assert {line for line in said if "another promotion made version" not in line} == set()
    assert alias == "champion" or not said
    assert None not in [version_of(client, f"m{number}", alias) for number in range(models)]


def test_what_is_missing_is_said(tmp_path: Path, run_dir: Path) -> None:
    config = make_config(tmp_path)
    run = TrackedRun(f"sqlite:///{tmp_path}/mlflow.db", "1", "0" * 32)
    with pytest.raises(UserError, match="cpl train"):
        register(config, run_dir, run)
    make_model(run_dir / "model")
    uri = f"http://ann:secret@127.0.0.1:{free_port()}"
    with pytest.raises(UserError, match="cannot be reached") as failure:
        register(config, run_dir, TrackedRun(uri, "1", "0" * 32))
    assert "secret" not in str(failure.value)
