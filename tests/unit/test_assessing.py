"""Reading the items of a run of a vision-language model: bad images are set aside, long answers are said."""

import json
from pathlib import Path

from cpl_ray.config import Config
from cpl_ray.model import save_model
from cpl_ray.rundir import RunDir
from pipelines.assessing import Reading
from tests.oracle.toy_vision import NUM_PIECES, toy_processor, toy_vlm, write_world


def test_images_and_long_answers(tmp_path: Path) -> None:
    model = toy_vlm()
    save_model(model, toy_processor(), tmp_path / "model")
    rows = write_world(tmp_path / "data", {"red": "a word", "blue": "word " * 12})
    rows += [{"question": "Which?", "answer": "x", "image": "none.png"}, {"question": "<image>?", "answer": "x"}]
    (tmp_path / "data" / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = Config.model_validate(
        {
            "model": str(tmp_path / "model"),
            "data": {"items": str(tmp_path / "data" / "q.jsonl"), "max_rejected": 0.5},
            "run": {"dir": str(tmp_path), "name": "run"},
        }
    )
    said: list[str] = []
    run = RunDir(config)
    run.root.mkdir()
    reading = Reading(config, run, lambda message, **_: said.append(message))
    assert reading.scorer == "exact_match"
    assert [item.id for item in reading.sets["items"]] == ["red", "blue"]
    warning = next(text for text in said if text.startswith("warning"))
    assert "1 of 2 answers have more tokens than assess.max_new_tokens=32" in warning
    assert "the longest needs assess.max_new_tokens=60" in warning
    rejected = [json.loads(line)["reason"] for line in (run.root / "rejected.jsonl").read_text().splitlines()]
    assert "none.png' is no file" in rejected[0]
    assert "image token" in rejected[1]
    encoded = reading.encoder.training(reading.sets["items"][0])
    assert encoded.context_ids.count(reading.encoder.vision.image_token_id) == NUM_PIECES  # type: ignore[union-attr]
