"""The noise floor, measured on a real (random, tiny) model that answers letters and not questions."""

from pathlib import Path

import pytest

from cpl_ray import rescoring
from cpl_ray.assessment import Assessment, Row, Verdict
from cpl_ray.config import Config
from cpl_ray.digest import model_digest
from cpl_ray.errors import UserError
from cpl_ray.items import Item
from cpl_ray.judging import failed, reordered
from cpl_ray.measures import Rate
from cpl_ray.model import item_max_length, load_model, load_tokenizer
from cpl_ray.predict import Scorer
from cpl_ray.rescoring import Asked, Job, measure, other_batch_size, score_jobs
from pipelines.promoting import _trained_from
from tests.tracking.runs import make_model

OPTIONS = ("tin", "iron", "copper", "zinc")
MASTERED = tuple(
    Item(f"m{i}", "multiple_choice", f"What is {'very ' * (i % 5)}thing {i}?", OPTIONS, i % 4, OPTIONS[i % 4])
    for i in range(16)
)
INJECTION = tuple(
    Item(f"i{i}", "multiple_choice", f"Who has {i}?", OPTIONS[: 2 + i % 2], i % 2, OPTIONS[i % 2]) for i in range(10)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models") / "one"
    make_model(place)
    return place


def directly(config: Config, folder: Path, scorer: str, items: list[Item]) -> dict[str, bool]:
    tokenizer, model = load_tokenizer(config, folder), load_model(folder)
    length = item_max_length(config, model.config, tokenizer)
    asker = Scorer.of(config, tokenizer, name=scorer, max_length=length)
    return {verdict.id: verdict.correct for verdict in asker.score(model, items)}


@pytest.mark.parametrize("scorer", ["letter_logit", "choice_loglik"])
def test_noise_is_what_asking_otherwise_changes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scorer: str
) -> None:
    def here(jobs: list[Job], *, config: Config, scorer: str) -> object:
        return score_jobs(jobs, config, scorer)

    monkeypatch.setattr(rescoring, "rescore", here)
    config = Config.model_validate({"model": str(folder), "assess": {"batch_size": 4}})
    items = [*MASTERED, *INJECTION]
    usual = directly(config, folder, scorer, items)
    wrongly_recorded = {"m0": not usual["m0"], "m3": not usual["m3"], "of another part": True}
    rival = tmp_path / "rival"
    make_model(rival, seed=5)
    asked = Asked(MASTERED, INJECTION, usual | wrongly_recorded)
    noise, table = measure(asked, config=config, scorer=scorer, candidate=folder, champion=rival)

    assert noise.mastered["evaluation"] == Rate(2, 16)
    assert noise.injection["evaluation"] == Rate(0, 10)
    assert noise.mastered["batch_size_1"].of == 16
    assert noise.mastered["batch_size_1"].count <= 1  # rounding, where two options are as good as equal
    if scorer == "letter_logit":
        orders = [reordered(item, 1, rescoring._SEED)[0] for item in items]
        other = directly(config, folder, scorer, orders)
        for rates, some in ((noise.mastered, MASTERED), (noise.injection, INJECTION)):
            changed = sum(other[item.id] != usual[item.id] for item in some)
            assert rates["permuted_options"] == Rate(changed, len(some))
        assert noise.mastered_floor == noise.mastered["permuted_options"].count > 2  # it knows a letter, no answer
    else:
        assert "permuted_options" not in noise.mastered  # the model never sees the order
        assert noise.mastered_floor == 2
    theirs = directly(config, rival, scorer, list(MASTERED))
    assert table is not None
    assert table.of == len(MASTERED)
    assert table.only_first == sum(usual[item.id] and not theirs[item.id] for item in MASTERED)
    assert table.only_second == sum(theirs[item.id] and not usual[item.id] for item in MASTERED)


def test_only_what_the_rates_count_is_asked() -> None:
    unscored = failed("x", "too long")
    before = {correct: Verdict("x", correct, "tin", 1.0) for correct in (True, False)}
    parts = {
        "mastered_test": [Row(MASTERED[0], before[True]), Row(MASTERED[1], before[False]), Row(MASTERED[2], unscored)],
        "mastered_train": [Row(MASTERED[3], before[True])],
        "injection_train": [Row(INJECTION[0], before[False]), Row(INJECTION[1], before[True])],
    }
    asked = Asked.of(Assessment(parts), {})
    assert [item.id for item in asked.mastered + asked.injection] == ["m0", "i0"]


def test_the_other_batch_size_and_a_model_that_cannot_be_asked(folder: Path, tmp_path: Path) -> None:
    assert [other_batch_size(size) for size in (1, 2, 16)] == [8, 1, 1]
    config = Config(model=str(folder))
    jobs = [
        Job("a", "the model of this run", str(folder), (), 4),
        Job("b", "the champion", str(tmp_path / "gone"), MASTERED, 4),
    ]
    with pytest.raises(UserError, match=r"the champion cannot be asked again: .*gone") as failure:
        score_jobs(jobs, config, "letter_logit")
    assert failure.value.exit_code == 1
    assert score_jobs(jobs[:1], config, "letter_logit") == {"a": []}


def test_a_champion_that_is_the_base_is_recognised_by_its_files(folder: Path) -> None:
    digest = model_digest(folder)
    assert _trained_from(Config(model=str(folder)), digest)
    assert not _trained_from(Config(model=str(folder)), "0" * 64)
    assert not _trained_from(Config(model=str(folder)), None)
    assert not _trained_from(Config(model="someone/on-a-hub"), digest)
