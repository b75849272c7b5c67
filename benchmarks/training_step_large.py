"""CPL, A-GEM and PCGrad against plain fine-tuning at 135 M parameters, through the same loop and DeepSpeed engine.

An engine of this size takes gigabytes, so the alternatives share one, with its model and moments: each brings its own
method and what that keeps of mastered gradients. What an update costs does not depend on the numbers in it.
"""

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.measure import Timing, compare
from benchmarks.training_step import batches, only_rank
from cpl_ray.collectives import Collectives
from cpl_ray.config import Config
from cpl_ray.engine import ZeroEngine
from cpl_ray.kept_states import KeptStates
from cpl_ray.methods.build import build_method
from cpl_ray.step import accumulate

LENGTH, VOCAB = 48, 49152
UPDATES = 4  # in one timing: refresh 4 is due once
LR = 1e-6  # the model is random and sees the same batch all the time
RIVALS: dict[str, tuple[str, int]] = {
    "fine-tuning": ("none", 0),
    "CPL, refresh 4": ("cpl", 4),
    "CPL, refresh 1": ("cpl", 1),
    "A-GEM, refresh 1": ("agem", 1),
    "PCGrad, refresh 1": ("pcgrad", 1),
}
"""Rule and refresh by name; refresh 0: no mastered passes."""
GOALS = {
    ("CPL, refresh 4", "fine-tuning"): 1.30,
    ("CPL, refresh 1", "fine-tuning"): 2.05,
    ("CPL, refresh 1", "A-GEM, refresh 1"): 0.835,
    ("CPL, refresh 1", "PCGrad, refresh 1"): 0.835,
}
"""Largest ratio wanted of the first to the second."""


def run(rounds: int) -> list[Timing]:
    """Compare CPU seconds of four updates of 135 M parameters (Llama, ZeRO 2, AdamW): micro-batches of 1 and 8 rows."""
    torch.set_num_threads(1)
    with only_rank():
        engine = large_engine()
        few = compared(engine, 1, list(RIVALS), rounds)
        many = compared(engine, 8, list(RIVALS)[:3], rounds)
    return [*few, *many]


def large_engine() -> ZeroEngine:
    """Return an engine around a random model of the shape of SmolLM2-135M."""
    torch.manual_seed(0)
    settings = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    engine = ZeroEngine(LlamaForCausalLM(settings), Config.model_validate({"model": "random"}))
    engine.set_lr(LR)
    return engine


def compared(engine: ZeroEngine, rows: int, names: list[str], rounds: int) -> list[Timing]:
    """Time rivals in turn on micro-batches of `rows` rows, and print the ratios that have a goal."""
    alternatives = {name: updates(engine, rows, *RIVALS[name]) for name in names}
    timings = compare(alternatives, rounds=rounds, warmup=1, clock=time.process_time)
    found = {timing.name: timing for timing in timings}
    for (first, second), goal in GOALS.items():
        if first in found and second in found:
            ratio = found[first].ratio_to(found[second])
            verdict = "met" if ratio <= goal else "missed"
            print(f"{rows} x {LENGTH} tokens: {first} / {second} = {ratio:.3f}, goal {goal}: {verdict}", flush=True)
    return [replace(timing, name=f"{timing.name}, {rows} x {LENGTH} tokens") for timing in timings]


def updates(engine: ZeroEngine, rows: int, rule: str, refresh: int) -> Callable[[], None]:
    """Return a function that makes four updates by a rule with the engine's model and moments."""
    method = build_method(Config.model_validate({"model": "random", "train": {"rule": rule}}))
    kept, comm = KeptStates(), Collectives(engine.device)
    mastered, injection = batches(rows, LENGTH, VOCAB)

    def run_updates() -> None:
        engine.optimizer.method, engine.optimizer.kept = method, kept
        for step in range(UPDATES):
            if refresh and step % refresh == 0:
                accumulate(engine, mastered, comm, "mastered")
                engine.capture()
            accumulate(engine, injection, comm, "injection")
            engine.update()

    return run_updates
