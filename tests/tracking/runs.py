"""What the tests of tracking and registry share: a run folder being written, and an MLflow server to be killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import requests
import torch
from mlflow import MlflowClient
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from cpl_ray.config import Config, RunSection, TrackingConfig
from cpl_ray.delivery import deliver
from cpl_ray.digest import model_digest
from cpl_ray.mlflow_client import TrackedRun
from cpl_ray.model import save_model
from tests.ports import free_port


def make_config(tmp_path: Path, **tracking: Any) -> Config:
    return Config(model="m", run=RunSection(name="r", dir=str(tmp_path)), tracking=TrackingConfig(**tracking))


def make_model(folder: Path, seed: int = 0) -> None:
    """Save a random two-layer Qwen2 with a tokenizer of bytes and a chat template."""
    torch.manual_seed(seed)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {word: index for index, word in enumerate(["<end>", *alphabet])}
    inner = Tokenizer(models.BPE(vocab=words, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")
    tokenizer.chat_template = "{% for m in messages %}U: {{ m.content }}\n{% endfor %}A: "
    config = Qwen2Config(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.4,
        eos_token_id=0,
    )
    save_model(Qwen2ForCausalLM(config), tokenizer, folder)


def rate(count: int, of: int) -> dict[str, Any]:
    return {"count": count, "of": of, "share": count / of, "low": 0.0, "high": 1.0}


def trained(
    config: Config, run_dir: Path, scorer: str | None = None, result: dict[str, Any] | None = None, seed: int = 0
) -> TrackedRun:
    """Make a run folder as training and evaluation leave it."""
    make_model(run_dir / "model", seed)
    if scorer is not None:
        (run_dir / "manifest.json").write_text(json.dumps({"scorer": scorer}))
    if result is not None:
        (run_dir / "result.json").write_text(json.dumps(result | {"model_digest": model_digest(run_dir / "model")}))
    return deliver(config, run_dir)


def with_config(config: Config, **changes: Any) -> Config:
    return Config.model_validate({**config.model_dump(), **changes})


def aliases(client: MlflowClient) -> dict[str, str]:
    return {alias: str(version) for alias, version in client.get_registered_model("cpl-model").aliases.items()}


def ask(run: TrackedRun, alias: str, frame: pd.DataFrame, **params: Any) -> list[Any]:
    """Load the registered model by alias, as a user does, and let it answer."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(run.uri)
    try:
        loaded = mlflow.pyfunc.load_model(f"models:/cpl-model@{alias}")
        return list(loaded.predict(frame, params=params or None))
    finally:
        mlflow.set_tracking_uri(before)


GOOD = {"learned": rate(9, 10), "forgotten": {"held_out": rate(1, 40)}}
BAD = {"learned": rate(9, 10), "forgotten": {"held_out": rate(11, 40)}}


def line(step: int, kind: str = "train", at: float = 1.7e9, **values: float) -> str:
    return json.dumps({"step": step, "kind": kind, "time": at + step, **(values or {"loss": 1.0 / (step + 1)})}) + "\n"


def append(run_dir: Path, text: str) -> None:
    with open(run_dir / "metrics.jsonl", "a", encoding="utf-8") as stream:
        stream.write(text)


def steps(run: TrackedRun | None, key: str = "train/loss") -> list[int]:
    assert run is not None
    return [metric.step for metric in MlflowClient(run.uri).get_metric_history(run.run_id, key)]


def wait_for(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


class Server:
    """An `mlflow server` on loopback which can be killed and started again on the same store and port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        return [*command, "--artifacts-destination", str(self.folder / "artifacts")]

    def environment(self) -> dict[str, str]:
        return {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}

    def start(self) -> None:
        environment = {**os.environ, **self.environment()}
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                self.command(), env=environment, stdout=log, stderr=log, start_new_session=True, cwd=self.folder
            )
        wait_for(self.answers, 240)

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "server.log").read_text(encoding="utf-8")
        try:
            return bool(requests.get(f"{self.uri}/health", timeout=2).ok)
        except requests.RequestException:
            return False

    def kill(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):  # it had ended by itself
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
