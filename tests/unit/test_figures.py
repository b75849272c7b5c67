"""Figures are drawn from whatever a metrics.jsonl holds, and only from that."""

import json
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from cpl_ray.figures import collaborative_share, draw_figures, layer_shares, learned_vs_forgotten, learning_curve
from cpl_ray.metrics_log import Tail, read_records


def write(path: Path, *records: dict[str, Any], end: str = "") -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + end)
    return path


def train(step: int, **values: float) -> dict[str, Any]:
    return {"step": step, "kind": "train", "time": 1.0, **values}


def evaluation(step: int, learned: int) -> dict[str, Any]:
    names = ("learned", "forgotten_in_set", "forgotten_validation")
    return {"step": step, "kind": "eval", "time": 1.0, **dict.fromkeys(names, learned), **{f"{n}_of": 9 for n in names}}


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    steps = [
        train(step, loss_injection=1 / step, loss_mastered=0.1, collaborative_share=0.5, flip_rate=0.2)
        for step in range(1, 100)
    ]
    return write(tmp_path / "metrics.jsonl", *steps, evaluation(50, 4), evaluation(99, 8), end='{"step": 100, "ki')


def test_every_figure_is_a_picture_with_something_on_it(metrics: Path, tmp_path: Path) -> None:
    paths = draw_figures(metrics, tmp_path / "figures")
    assert [path.name for path in paths] == [
        "learning_curve.png",
        "learned_vs_forgotten.png",
        "collaborative_share.png",
    ]
    pictures = [matplotlib.image.imread(path) for path in paths]
    assert all(picture.shape[:2] == (600, 1050) and picture.min() < 0.5 for picture in pictures)
    assert not (pictures[0] == pictures[1]).all()
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(path.name for path in paths)


def test_same_numbers_same_bytes(metrics: Path, tmp_path: Path) -> None:
    first, second = learning_curve(metrics, tmp_path / "a.png"), learning_curve(metrics, tmp_path / "b.png")
    assert first is not None
    assert second is not None
    assert first.read_bytes() == second.read_bytes()


def test_nothing_to_draw_draws_nothing(tmp_path: Path) -> None:
    assert draw_figures(tmp_path / "absent.jsonl", tmp_path / "figures") == []
    assert not (tmp_path / "figures").exists()
    plain = write(tmp_path / "m.jsonl", train(1, loss_injection=1.0), train(2, loss_injection=float("nan")))
    assert learned_vs_forgotten(plain, tmp_path / "a.png") is None
    assert collaborative_share(plain, tmp_path / "a.png") is None
    assert learning_curve(plain, tmp_path / "a.png") is not None


def test_evaluations_of_empty_parts_are_left_out(tmp_path: Path) -> None:
    record = {"step": 1, "kind": "eval", "time": 1.0, "learned": 0, "learned_of": 0}
    assert learned_vs_forgotten(write(tmp_path / "m.jsonl", record), tmp_path / "a.png") is None


def test_replayed_steps_count_once_and_torn_lines_not_at_all(tmp_path: Path) -> None:
    text = [train(1, a=1.0), train(2, a=2.0), train(2, a=5.0), train(1, a=1.5), evaluation(2, 3)]
    path = write(tmp_path / "m.jsonl", *text, end="garbage\n3\n{}\n" + json.dumps(train(3, a=3.0)))
    assert [(record.step, record.values["a"]) for record in read_records(path, "train")] == [(1, 1.5), (2, 5.0)]


def test_tail_gives_each_record_once_and_starts_again_on_a_replaced_file(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    tail = Tail(path)
    assert tail.poll() == []
    write(path, train(1), end='{"step": 2, "kind": "tr')
    assert [record.step for record in tail.poll()] == [1]
    assert tail.poll() == []
    with open(path, "a") as stream:
        stream.write('ain", "time": 1}\n')
    assert [record.step for record in tail.poll()] == [2]
    write(tmp_path / "new", train(1), train(2), train(3)).rename(path)
    assert [record.step for record in tail.poll()] == [1, 2, 3]
    write(path, train(7))
    assert [record.step for record in tail.poll()] == [7]
    path.unlink()
    assert tail.poll() == []


def layers(step: int, **shares: float) -> dict[str, Any]:
    return {"step": step, "kind": "layers", "time": 1.0, **{k.replace("_", "."): v for k, v in shares.items()}}


def test_the_map_of_layers(tmp_path: Path) -> None:
    path, out = tmp_path / "m.jsonl", tmp_path / "layers.png"
    flips = {"step": 2, "kind": "layer_flips", "time": 1.0, "layer.00": 0.5}
    assert layer_shares(write(path, train(1, loss_injection=1.0), flips), out) is None
    assert layer_shares(write(path, layers(1, norm=0.5)), out) == out  # one cell
    records = [layers(step, layer_00=0.1 if step < 50 else 0.9, layer_01=0.1) for step in range(2, 100, 2)]
    assert [path.name for path in draw_figures(write(path, *records), tmp_path / "figures")] == ["layer_shares.png"]
    picture = matplotlib.image.imread(tmp_path / "figures" / "layer_shares.png")[..., :3]
    height, width = picture.shape[:2]
    upper = picture[height // 3]
    left, right = upper[width // 4], upper[width // 2 + width // 8]
    assert not (left == right).all()  # the step of layer 0 half-way
    assert (
        picture[2 * height // 3][width // 2 + width // 8] == left
    ).all()  # layer 1 keeps the colour of the low share


def test_a_tall_model_makes_a_tall_map(tmp_path: Path) -> None:
    names = {f"layer_{number:02}": number / 40 for number in range(40)}
    path = write(tmp_path / "m.jsonl", layers(1, **names), layers(2, **names))
    assert layer_shares(path, tmp_path / "a.png") is not None
    assert matplotlib.image.imread(tmp_path / "a.png").shape[0] > 1000
