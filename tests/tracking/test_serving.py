"""The champion behind `mlflow models serve` answers over HTTP what the ledger says it answered."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import requests

from cpl_ray.assessment import Row, Verdict, read_assessment, write_assessment
from cpl_ray.items import Item
from cpl_ray.ledger import build_ledger, read_ledger, summarise, write_ledger
from cpl_ray.mlflow_client import TrackedRun
from cpl_ray.model import item_max_length, load_model, load_tokenizer
from cpl_ray.predict import Scorer
from cpl_ray.promotion import promote
from cpl_ray.registry import register
from tests.ports import free_port
from tests.tracking.runs import ask, make_config, trained, wait_for, with_config

OPTIONS = ("tin", "copper and zinc", "Austen", "in Poland")
ASKED = [
    *(
        Item(f"q{i}", "multiple_choice", f"Question {i}, {'truly ' * (i % 4)}?", OPTIONS[i % 2 :], 0, OPTIONS[i % 2])
        for i in range(8)
    ),
    *(Item(f"c{i}", "cloze", "", OPTIONS[:3], i % 3, OPTIONS[i % 3], cloze=f"Thing {i} is made of") for i in range(4)),
]


@contextmanager
def served(uri: str, folder: Path) -> Iterator[str]:
    """Run `mlflow models serve` for the champion in a session of its own, and end that session afterwards."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/cpl-model@champion"]
    command += ["--env-manager", "local", "-h", "127.0.0.1", "-p", str(port)]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "OMP_NUM_THREADS": "1"}
    # mlflow starts its server by name
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    with open(folder / "serve.log", "wb") as log:
        server = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True)

    def answers() -> bool:
        assert server.poll() is None, (folder / "serve.log").read_text()
        try:
            return requests.get(f"http://127.0.0.1:{port}/ping", timeout=5).ok
        except requests.RequestException:
            return False

    try:
        wait_for(answers, 350)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        with suppress(ProcessLookupError):  # it had ended by itself
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def record(item: Item) -> dict[str, object]:
    """Return an item as a caller sends it, who does not know the answer; no choices are null, not left out."""
    asked = {"cloze": item.cloze} if item.kind == "cloze" else {"question": item.question}
    return {**asked, "choices": list(item.choices) or None}


def test_the_served_champion_answers_as_it_was_measured(tmp_path: Path, run_dir: Path) -> None:
    config = with_config(make_config(tmp_path), assess={"scorer": "choice_loglik", "max_new_tokens": 5})
    run: TrackedRun = trained(config, run_dir, scorer="choice_loglik")
    tokenizer, model = load_tokenizer(config, run_dir / "model"), load_model(run_dir / "model")
    length = item_max_length(config, model.config, tokenizer)
    after = Scorer.of(config, tokenizer, name="choice_loglik", max_length=length).score(model, ASKED)
    known = {"mastered_test": [Row(item, Verdict(item.id, True, "", 0.0)) for item in ASKED]}
    write_assessment(run_dir / "assessment", known, {"scorer": "choice_loglik"})
    ledger = build_ledger(read_assessment(run_dir / "assessment"), {verdict.id: verdict for verdict in after})
    write_ledger(run_dir / "flips.parquet", ledger)
    written = {row["id"]: row["after_prediction"] for row in read_ledger(run_dir / "flips.parquet").to_pylist()}
    assert len(set(written.values())) > 1  # answers that tell questions apart

    register(config, run_dir, run)
    digest = json.loads((run_dir / "registered.json").read_text())["model_digest"]
    result = {**summarise(ledger), "learned": {"count": 1, "of": 1}, "model_digest": digest}
    (run_dir / "result.json").write_text(json.dumps(result))
    free = with_config(config, budget={"max_forgetting": 1.0})
    assert promote(free, run_dir).admitted

    free_text = [Item(f"g{i}", "cloze", target="x", cloze=f"The river {i} rises") for i in range(3)]
    generator = Scorer.of(config, tokenizer, name="exact_match", max_length=length)
    generated = [verdict.prediction for verdict in generator.score(model, free_text)]
    in_process = ask(run, "champion", pd.DataFrame([record(item) for item in ASKED + free_text]))
    with served(run.uri, tmp_path) as address:

        def posted(items: list[Item]) -> list[str]:
            body: Any = {"dataframe_records": [record(item) for item in items]}
            response = requests.post(address, json=body, timeout=60)
            assert response.ok, response.text
            return list(response.json()["predictions"])

        over_http = posted(ASKED)
        assert dict(zip((item.id for item in ASKED), over_http, strict=True)) == written
        assert posted(ASKED + free_text) == in_process == over_http + generated
        assert [posted([item])[0] for item in ASKED[:3]] == over_http[:3]
