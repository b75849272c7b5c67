"""A tiny model that knows some made-up facts, and the command line in a process of its own."""

import json
import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from tests.processes import command_line, heed_interrupts, lives

heed_interrupts()  # drills and load tests come this way, without pytest

ROOT = Path(__file__).resolve().parents[2]
MARK = "CPL_TEST_MARK"
NUM_KNOWN, NUM_UNKNOWN = 24, 16
NUM_UPDATES = 64
"""Enough that a training is not over before a test has found what it wants to hit."""
TEACHING_STEPS = 400
START_S = 400
"""Until a command trains, on a machine that does much else."""
AFTER_KILL_S = 180
"""A process that Ray was just starting asks its dead head for a minute before it gives up."""
TRAIN = """\
model: model
data: {mastered: mastered.jsonl, injection: injection.jsonl}
train: {micro_batch_size: 2, mastered_batch_size: 8, refresh: 2, epochs: 16, checkpoint_every: 2}
evaluate: {every: null}
optimizer: {lr: 1.0e-4, weight_decay: 0.1}
cluster: {num_workers: 2}
zero_stage: 2
"""


def facts() -> list[dict[str, Any]]:
    """Return the facts as multiple-choice cloze rows; the model is taught the first `NUM_KNOWN`."""
    places = ["harbour", "mill", "tower", "garden", "bridge"]
    names = ["amber", "birch", "cedar", "dune", "ember", "frost", "grove", "heath"]
    answers = ["seven", "green", "iron", "north", "salt", "oak", "wind", "gold", "clay", "snow", "rust", "moss"]
    rows = []
    rng = random.Random(0)
    for index in range(NUM_KNOWN + NUM_UNKNOWN):
        place, name = places[index % 5], names[index // 5]
        rows.append(
            {
                "id": f"f{index}",
                "question": f"What is the sign of {name} {place}?",
                "cloze": f"The sign of {name} {place} is",
                "choices": rng.sample(answers, 4),
                "answer": rng.randrange(4),
            }
        )
    return rows


def as_completion(row: dict[str, Any]) -> dict[str, str]:
    """Return a fact as a prompt/completion row."""
    return {"id": row["id"], "prompt": row["cloze"], "completion": " " + row["choices"][row["answer"]]}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def build_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=400, special_tokens=["<eos>"], initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>")


def build_model(folder: Path, taught: Sequence[int] = range(NUM_KNOWN)) -> None:
    """Train a two-layer Qwen2 for seconds until it knows some facts; save it with its tokenizer (no pad token)."""
    rows = [as_completion(row) for row in facts()]
    texts = [row["prompt"] + row["completion"] for row in rows]
    words = build_tokenizer(texts)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(words),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config)
    ids = pad_sequence([torch.tensor(words(text).input_ids) for text in (texts[index] for index in taught)], True, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    # without decay what it knows in the end depends on the processor
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, TEACHING_STEPS)
    for _ in range(TEACHING_STEPS):
        optimizer.zero_grad()
        output = model(input_ids=ids.clamp(min=0), labels=ids)
        output.loss.backward()
        optimizer.step()
        decay.step()
    said = output.logits[:, :-1].argmax(-1)
    for row, index in enumerate(taught):
        start, stop = len(words(rows[index]["prompt"]).input_ids), len(words(texts[index]).input_ids)
        assert torch.equal(said[row, start - 1 : stop - 1], ids[row, start:stop]), f"{texts[index]!r} was not learned"
    model.save_pretrained(folder)
    words.save_pretrained(folder)


@dataclass
class World:
    """Where the tests of this folder happen: model, items and runs lie here; commands are run here."""

    folder: Path

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def environment(self) -> dict[str, str]:
        """Return the environment of a command: nothing of the caller's points to a cluster or a tracking server."""
        return {
            **{name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")},
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            MARK: uuid.uuid4().hex,
        }

    def start(self, *arguments: str, stderr: int = subprocess.PIPE, **environment: str) -> "subprocess.Popen[str]":
        """Start `cpl` in a session of its own; everything it starts inherits a mark (see `left_behind`)."""
        variables = {**self.environment(), **environment}
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines", *arguments],
            cwd=self.folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
        process.mark = variables[MARK]  # type: ignore[attr-defined]
        return process

    def cpl(self, *arguments: str, exit_code: int = 0, **environment: str) -> tuple[str, str]:
        """Run `cpl` to its end and return what it printed; fail on another exit code, or if processes stay."""
        process = self.start(*arguments, stderr=subprocess.PIPE, **environment)
        out, err = process.communicate()
        assert process.returncode == exit_code, f"{arguments}: {process.returncode}\n{out}\n{err}"
        assert "Traceback" not in err, err
        assert left_behind(process) == []
        return out, err


def marked(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """Return the living processes that `process` has started, directly or not.

    They are of its session or have its mark: Ray's workers write their names over their environment, and the process
    that speaks for a command that was killed has a session of its own.
    """
    known = {one.pid: one for one in psutil.process_iter()}
    parents: dict[int, int] = {}
    found: set[int] = set()
    for pid, one in known.items():
        with suppress(psutil.Error, ProcessLookupError):
            parents[pid] = one.ppid()
            ours = os.getsid(pid) == process.pid or one.environ().get(MARK) == process.mark  # type: ignore[attr-defined]
            if pid != process.pid and ours:
                found.add(pid)
    while children := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= children
    return [known[pid] for pid in sorted(found) if lives(known[pid])]


def commands(process: "subprocess.Popen[str]") -> dict[psutil.Process, str]:
    """Return the command lines of `marked`, without those that end meanwhile."""
    lines = {one: command_line(one) for one in marked(process)}
    return {one: line for one, line in lines.items() if line}


def left_behind(process: "subprocess.Popen[str]", patience_s: float = 20) -> list[str]:
    """Return what still runs of a command that has ended, after waiting for it to go."""
    until(lambda: not marked(process), patience_s, demand=False, pause_s=0.2)
    return [command_line(one)[:80] or str(one) for one in marked(process)]


def until(met: Callable[[], Any], timeout_s: float, *, demand: bool = True, pause_s: float = 0.02) -> None:
    """Wait until `met()` is true, looking every `pause_s`; looking at processes takes CPU time from them."""
    deadline = time.monotonic() + timeout_s
    while not (found := met()) and time.monotonic() < deadline:
        time.sleep(pause_s)
    assert not demand or found or met(), "what was waited for did not happen"


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    build_model(folder / "model")
    rows = facts()
    write_rows(folder / "items.jsonl", rows)
    write_rows(folder / "mastered.jsonl", [as_completion(row) for row in rows[:NUM_KNOWN]])
    write_rows(folder / "injection.jsonl", [as_completion(row) for row in rows[NUM_KNOWN:]])
    return World(folder)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def steps(folder: Path, kind: str = "train") -> list[int]:
    path = folder / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []  # the last may be half written
    return [record["step"] for record in map(json.loads, lines) if record["kind"] == kind]


def until_trained(process: "subprocess.Popen[str]", folder: Path, update: int = 5) -> None:
    """Wait until a command has made this update; fail if it ends before."""
    until(lambda: len(steps(folder)) >= update or process.poll() is not None, START_S)
    assert process.poll() is None, process.communicate()


@pytest.fixture(scope="session")
def trained(world: World) -> Path:
    """Train on brought sets, undisturbed, without having assessed; return the run folder."""
    (world.folder / "train.yaml").write_text(TRAIN)
    world.cpl("train", "train.yaml", "run.name=calm")
    return world.runs / "calm"
