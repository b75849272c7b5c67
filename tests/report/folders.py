"""Run and sweep folders as the stages write them, with made-up numbers and chosen questions."""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cpl_ray.assessment import PARTS, Assessment, Parts, Row, Verdict
from cpl_ray.items import Item
from cpl_ray.ledger import build_ledger, summarise, write_ledger
from cpl_ray.measures import Rate

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "<!-- <script> never closed",
    "<img src=x onerror=alert(3)>",
    "\"quoted\" 'twice' & {{ 7 * 7 }} {% raw %} \\u003c",
    "line\u2028and paragraph\u2029separators",
    "ما هي عاصمة مصر؟",
    "מהי בירת ישראל?",
    "日本の首都はどこですか。",
    "Which letter follows 𝒜 and 👩‍🔬?",
)
SECRET = "hunter2-never-shown"
CONFIG = f"""\
model: /somewhere/on/a/disk/base-model
train: {{rule: cpl, seed: 3, dtype: float32, refresh: 1}}
optimizer: {{name: adamw, lr: 0.0003, options: {{api_key: {SECRET}}}}}
zero_stage: 2
tracking: {{uri: "https://someone:{SECRET}@mlflow.example.org/?token={SECRET}", experiment: cpl-ray}}
budget: {{max_forgetting: 0.05, min_learned: 0.9}}
"""


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def make_run(
    folder: Path,
    *,
    num: int = 120,
    asked: Sequence[str] = HOSTILE,
    margins: bool = True,
    layers: bool = True,
    warning: str | None = None,
) -> Path:
    """Write an evaluated run of `num` questions, the first ones `asked`, which are forgotten held-out ones."""
    rng = random.Random(num)
    parts: Parts = {part: [] for part in PARTS}
    after = {}
    for n in range(num):
        hostile = n < len(asked)
        part = "mastered_test" if hostile else PARTS[n % 4]
        question = asked[n] if hostile else f"What is the sign of house number {n}?"
        mastered = part.startswith("mastered")
        right = False if hostile else rng.random() < 0.95
        before_margin, after_margin = (rng.uniform(0, 4), rng.uniform(-2, 4)) if margins else (math.nan, math.nan)
        item = Item(id=f"q{n}", kind="cloze", question=question, cloze=f"{question} It is", target=f"sign {n}")
        error = "the prompt is too long" if n == num - 1 else None
        answer = f"sign {n}" if mastered else "no idea"
        parts[part].append(Row(item, Verdict(item.id, mastered, answer, before_margin, (), error)))
        after[item.id] = Verdict(item.id, right, f"sign {n}" if right else question, after_margin)
    folder.mkdir(parents=True)
    table = build_ledger(Assessment(parts), after)
    write_ledger(folder / "flips.parquet", table)
    result = {"run": folder.name, "model": "/somewhere/on/a/disk/base-model", "rule": "cpl", "scorer": "choice_loglik"}
    numbers = {"steps": 90, "epochs": 90.0, "train_s": 27.4, "num_params": 535392, "world_size": 2}
    extra = {"collaborative_share": 0.57, "moved_against": 0}
    write_json(folder / "result.json", result | summarise(table) | numbers | extra)
    (folder / "config.yaml").write_text(CONFIG)
    about = {part: {"rows": len(parts[part]), "denominator": len(parts[part]), "sha256": "5e" * 32} for part in PARTS}
    prompt = {"template": "Q: {question} <b>", "chat": False}
    manifest = {"scorer": "choice_loglik", "prompt": prompt, "prompt_fingerprint": "ab" * 32, "seed": 7}
    write_json(folder / "manifest.json", manifest | {"parts": about, "letter_report": {"warning": warning}})
    git = {"commit": "c0ffee" * 6 + "c0ff", "dirty": True}
    versions = {"torch": "2.13.0", "ray": "2.60.0", "lm_eval": None}
    write_json(folder / "environment.json", {"python": "3.11.7", "platform": "Linux", "git": git, "versions": versions})
    _write_metrics(folder / "metrics.jsonl", layers=layers)
    return folder


def _write_metrics(path: Path, *, layers: bool, steps: int = 90) -> None:
    records: list[dict[str, Any]] = []
    for step in range(steps + 1):
        gone = step / steps
        if step:
            losses = {"loss_injection": 5 * math.exp(-4 * gone), "loss_mastered": 0.05 + 0.02 * math.sin(step)}
            rule = {"collaborative_share": 0.57 + 0.03 * gone, "flip_rate": 0.4 - 0.1 * gone}
            records.append({"step": step, "kind": "train", "time": 1.0, **losses, **rule})
        if step and layers:
            names = ["model.embed_tokens", *(f"model.layers.{n}" for n in range(8)), "model.norm"]
            shares = {name: 0.5 + 0.2 * gone * (n / 10) for n, name in enumerate(names)}
            records.append({"step": step, "kind": "layers", "time": 1.0, **shares})
        if step % 5 == 0:
            of = {"learned_of": 198, "forgotten_validation_of": 161, "forgotten_in_set_of": 401}
            counts = {"learned": int(189 * gone), "forgotten_validation": 3 * (step > 40), "forgotten_in_set": 0}
            records.append({"step": step, "kind": "eval", "time": 1.0, **counts, **of})
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def rate(count: int, of: int) -> dict[str, Any]:
    return Rate(count, of).to_dict()


def make_sweep(folder: Path, *, state: str = "finished", error: str = "CUDA out of memory") -> Path:
    """Write a sweep over the rate and the size of the mastered set, two seeds a point, one trial of it failed."""
    rng = random.Random(1)
    sizes, rates = (50, 100, 200, 401), (1e-4, 3e-4, 1e-3)
    grid = [{"optimizer.lr": lr, "train.mastered_size": size} for size in sizes for lr in rates]
    trials: list[dict[str, Any]] = []
    points = []
    unfinished = 8 if state != "finished" else len(grid)
    for point_id, point in enumerate(grid):
        lr, size = point["optimizer.lr"], int(point["train.mastered_size"])
        mine = []
        for seed in (0, 1):
            index = len(trials)
            done = point_id < unfinished and index != 5
            forgets = min(0.4, 0.9 * (lr / 1e-3) ** 0.5 / size**0.62 * rng.uniform(0.7, 1.3))
            learns = min(0.99, 0.72 + 0.12 * math.log10(lr / 1e-4) + 0.18 * (lr > 2e-4) + rng.uniform(-0.03, 0.03))
            sides = {"validation": rate(round(161 * forgets), 161), "held_out": rate(round(260 * forgets), 260)}
            failed = index == 5
            mine.append(index)
            trials.append(
                {
                    "index": index,
                    "point_id": point_id,
                    "point": point,
                    "seed": seed,
                    "state": "failed" if failed else "finished" if done else "running" if index == 16 else "pending",
                    "run_dir": f"trials/{index:03d}",
                    "learned": rate(round(198 * learns), 198) if done else None,
                    "forgotten": {**sides, "in_set": rate(0, size)} if done else None,
                    "steps": 90 if done else 0,
                    "seconds": 31.2 + index if done else None,
                    "mastered_size": size,
                    "mastered_sha256": "9a" * 32,
                    "error": error if failed else None,
                }
            )
        if all(trials[index]["state"] == "finished" for index in mine):
            points.append(_pooled(point_id, point, [trials[index] for index in mine]))
    for point in points:
        point["pareto"] = not any(_beats(other, point) for other in points)
    best = _best(points)
    sweep = {
        "sweep": folder.name,
        "model": "/somewhere/on/a/disk/base-model",
        "state": state,
        "started": "2026-11-22T02:00:00",
        "algorithm": "grid",
        "space": {"optimizer.lr": {"loguniform": [1e-4, 1e-3]}, "train.mastered_size": {"grid": list(sizes)}},
        "seeds": [0, 1],
        "objectives": ["learned", "forgotten"],
        "budget": {"max_forgetting": 0.05, "min_learned": 0.8},
        "trials": trials,
        "points": points,
        "pareto": [point["point_id"] for point in points if point["pareto"]],
        "best": best and {"point_id": best["point_id"], "reason": "Inside the budget, it learned most."},
        "by_size": [
            {
                "mastered_size": point["point"]["train.mastered_size"],
                "point_id": point["point_id"],
                "mastered_sha256": "9a" * 32,
                "learned": point["learned"],
                "forgotten": point["forgotten"],
                "inside": point["forgotten"]["validation"]["high"] <= 0.05,
            }
            for point in points
            if point["point"]["optimizer.lr"] == rates[1]
        ],
        "smallest_mastered_set": best
        and {"mastered_size": 200, "point_id": 7, "text": "200 mastered items are enough to stay inside the budget."},
    }
    folder.mkdir(parents=True)
    write_json(folder / "sweep.json", sweep)
    if best:
        make_run(folder / "trials" / f"{best['trials'][0]:03d}")
    return folder


def _pooled(point_id: int, point: dict[str, Any], trials: list[dict[str, Any]]) -> dict[str, Any]:
    def pool(rates: list[dict[str, Any]]) -> dict[str, Any]:
        return rate(sum(r["count"] for r in rates), sum(r["of"] for r in rates))

    def ends(rates: list[dict[str, Any]]) -> list[float]:
        return [min(r["share"] for r in rates), max(r["share"] for r in rates)]

    by_side = {side: [trial["forgotten"][side] for trial in trials] for side in ("validation", "held_out", "in_set")}
    learned = [trial["learned"] for trial in trials]
    return {
        "point_id": point_id,
        "point": point,
        "trials": [trial["index"] for trial in trials],
        "learned": pool(learned),
        "forgotten": {side: pool(rates) for side, rates in by_side.items()},
        "spread": {
            "learned": ends(learned),
            "forgotten_validation": ends(by_side["validation"]),
            "forgotten_held_out": ends(by_side["held_out"]),
        },
    }


def _beats(other: dict[str, Any], point: dict[str, Any]) -> bool:
    first = (other["learned"]["share"], -other["forgotten"]["validation"]["share"])
    second = (point["learned"]["share"], -point["forgotten"]["validation"]["share"])
    return first != second and first[0] >= second[0] and first[1] >= second[1]


def _best(points: list[dict[str, Any]]) -> dict[str, Any] | None:
    inside = [p for p in points if p["forgotten"]["validation"]["share"] <= 0.05]
    return max(inside, key=lambda p: p["learned"]["share"], default=None)
