"""Loading: overrides win, mistakes name the key and the nearest valid one, and YAML goes round without loss."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from cpl_ray.config import Config
from cpl_ray.errors import ConfigError
from cpl_ray.keys import all_keys, nearest
from cpl_ray.loading import dump_config, load_config
from cpl_ray.notices import notices

MINIMAL = "model: m\ndata:\n  items: a.jsonl\n"


@pytest.fixture
def write(tmp_path: Path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(MINIMAL)
    return path


def message(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as raised:
        load_config(path, overrides)
    assert raised.value.exit_code == 3
    return str(raised.value)


def test_defaults_come_from_the_model(write: Path) -> None:
    assert load_config(write) == Config.model_validate({"model": "m", "data": {"items": "a.jsonl"}})


def test_overrides_win_and_the_last_one_wins(write: Path) -> None:
    config = load_config(write, ["train.epochs=3", "train.epochs=4", "data.items=b.jsonl", "optimizer.lr=1e-4"])
    assert (config.train.epochs, config.data.items, config.optimizer.lr) == (4, "b.jsonl", 1e-4)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("run.name=2026-11-21", "2026-11-21"),
        ("run.name=007", "007"),
        ("run.name='a'", "a"),
        ("run.name=null", None),
        ("run.name=", None),
        ("data.items=*.jsonl", "*.jsonl"),
        ("data.items=[a.jsonl, b.jsonl]", ["a.jsonl", "b.jsonl"]),
        ("prompt.template=Q: {question} #1", "Q: {question} #1"),
        ("prompt.template={question}", "{question}"),
        ('prompt.template="Q: {question}\\nA:"', "Q: {question}\nA:"),
        ("train.refresh=epoch", "epoch"),
        ("train.refresh=4", 4),
        ("train.max_grad_norm=null", None),
        ("optimizer.betas=[0.8, 0.9]", (0.8, 0.9)),
        ("run.resume=true", True),
        ("deepspeed.zero_optimization.reduce_bucket_size=1e6", 1e6),
        ("optimizer.options={foreach: false}", {"foreach": False}),
        ("data.columns.question=stem", "stem"),
    ],
)
def test_override_values(write: Path, override: str, expected: object) -> None:
    value: object = load_config(write, [override])
    for part in override.partition("=")[0].split("."):
        value = value[part] if isinstance(value, dict) else value.__dict__[part]
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("train.epoch=3", "train.epochs"),
        ("lr=1", "optimizer.lr"),
        ("train.lr=1", "optimizer.lr"),
        ("train.micro-batch-size=2", "train.micro_batch_size"),
        ("zero=1", "zero_stage"),
        ("trian.epochs=2", "train.epochs"),
        ("cluster.workers=2", "cluster.num_workers"),
        ("mastered_batch_size=2", "train.mastered_batch_size"),
    ],
)
def test_unknown_keys_name_the_nearest(write: Path, override: str, near: str) -> None:
    name = override.partition("=")[0]
    assert f"unknown key {name!r}; did you mean {near!r}" in message(write, override)
    tree = yaml.safe_load(MINIMAL)
    *sections, leaf = name.split(".")
    place = tree
    for section in sections:
        place = place.setdefault(section, {})
    place[leaf] = 1
    write.write_text(yaml.safe_dump(tree))
    assert near.split(".")[0] in message(write)


def test_unknown_key_without_a_near_one_lists_the_section(write: Path) -> None:
    found = message(write, "optimizer.foobar=1")
    assert all(key in found for key in ("optimizer.foobar", "optimizer.lr", "optimizer.betas"))


@given(st.sampled_from(sorted(all_keys())), st.data())
def test_one_wrong_letter_still_finds_the_key(name: str, data: st.DataObject) -> None:
    leaf = name.rpartition(".")[2]
    if len(leaf) < 5:
        return
    place = data.draw(st.integers(1, len(leaf) - 2))
    typo = name[: len(name) - len(leaf)] + leaf[:place] + leaf[place + 1 :]
    if typo not in all_keys():
        assert name in nearest(typo)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epochs=0", ("train.epochs", "0", "at least 1")),
        ("train.epochs=true", ("train.epochs", "true", "an integer")),
        ("train.epochs=1.5", ("train.epochs", "1.5", "an integer")),
        ("train.dtype=fp32", ("train.dtype", "fp32", "float32", "bfloat16")),
        ("train.refresh=sometimes", ("train.refresh", "sometimes", "'epoch'", "an integer")),
        ("optimizer.lr=fast", ("optimizer.lr", "fast", "a number above 0")),
        ("optimizer.lr=.inf", ("optimizer.lr", "inf", "finite")),
        ("optimizer.lr=.nan", ("optimizer.lr", "nan", "above 0")),
        ("optimizer.betas=[0.9]", ("optimizer.betas", "[0.9]", "a list of 2")),
        ("optimizer.betas=[true, 0.9]", ("optimizer.betas", "true")),
        ("optimizer.name=lamb", ("optimizer.name", "lamb", "adamw", "module.Class")),
        ("zero_stage=4", ("zero_stage", "4", "0, 1, 2, 3")),
        ("run.name=a b", ("run.name", "a b")),
        ("run.name=../x", ("run.name", "../x")),
        ("train=3", ("train", "3", "a section")),
        ("deepspeed=3", ("deepspeed", "3", "a mapping")),
        ("split.mastered_test=0.9", ("split.mastered_validation + split.mastered_test", "1.1")),
        ("data.mastered=m.jsonl", ("data.injection is missing",)),
        ("model.size=3", ("model", "nothing can be set below it")),
        ("train.epochs", ("train.epochs", "key=value")),
        ("=3", ("=3", "key=value")),
        ("train.epochs=[", ("train.epochs=[", "not valid YAML")),
    ],
)
def test_wrong_values_name_key_value_and_what_is_valid(write: Path, override: str, words: tuple[str, ...]) -> None:
    found = message(write, override)
    assert [word for word in words if word not in found] == []


def test_all_problems_are_listed_at_once(write: Path) -> None:
    write.write_text(MINIMAL + "trian: {}\ntrain: {epochs: 0, dtype: fp32}\n1: 2\n")
    found = message(write)
    assert [word for word in ("'trian'", "train.epochs", "train.dtype", "'1'") if word not in found] == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ("empty", "cpl init")),
        (b"- a\n- b\n", ("mapping", "a list")),
        (b"hello", ("mapping", "text")),
        (b"model: [", ("not valid YAML", "line")),
        (b"model: a\nmodel: b\n", ("line 2", "'model' is given twice")),
        (b"model: a\n{}: b\n", ("line 2", "{} cannot be a key")),
        (b"model: a\nadapter: &a\n  dropout: *a\n", ("not valid YAML", "Circular reference")),
        (b"model: \xff\n", ("not UTF-8",)),
        (b"train: {epochs: 3}\n", ("model is missing",)),
        (b"model: !!python/object/apply:os.getcwd []\n", ("not valid YAML",)),
    ],
)
def test_unreadable_files(tmp_path: Path, content: bytes, words: tuple[str, ...]) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    found = message(path)
    assert str(path) in found
    assert [word for word in words if word not in found] == []


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "cpl init" in message(tmp_path / "none.yaml")
    assert "is a folder" in message(tmp_path)


def test_sections_with_comments_only_set_nothing(write: Path) -> None:
    write.write_text(
        "\ufeff" + MINIMAL + "train:\n  # epochs: 3\ndeepspeed:\noptimizer:\n  options:\n", encoding="utf-8"
    )
    assert load_config(write) == Config.model_validate({"model": "m", "data": {"items": "a.jsonl"}})


@given(
    st.fixed_dictionaries(
        {
            "model": st.text(min_size=1, alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"])),
            "optimizer": st.fixed_dictionaries({"lr": st.floats(1e-12, 1e3), "options": st.just({"text": "1e-5"})}),
            "train": st.fixed_dictionaries({"epochs": st.integers(1, 10**9), "refresh": st.sampled_from(["epoch", 3])}),
            "data": st.fixed_dictionaries({"items": st.lists(st.sampled_from(["1e-5", "no", "2026-01-01", "a: b"]))}),
            "deepspeed": st.dictionaries(st.sampled_from("abc"), st.floats(allow_nan=False) | st.booleans()),
        }
    )
)
def test_dump_and_load_go_round(tmp_path_factory: pytest.TempPathFactory, tree: dict[str, object]) -> None:
    config = Config.model_validate(tree)
    path = tmp_path_factory.getbasetemp() / "round.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(path) == config


@pytest.mark.parametrize("text", ["a\x85b", "\x85", "a\u2028b", " \u2029", "a\nb", "\ufeff"])
def test_line_breaks_in_texts_survive(text: str, tmp_path: Path) -> None:
    config = Config.model_validate({"model": "m", "prompt": {"template": f"{text}{{question}}"}})
    (tmp_path / "saved.yaml").write_text(dump_config(config), encoding="utf-8")
    assert load_config(tmp_path / "saved.yaml") == config


@pytest.mark.parametrize(
    ("override", "what", "shown"),
    [
        ("tracking.uri=http://ann:hunter2@host:5000", "tracking.uri holds", "(http://***@host:5000)"),
        ("tracking.uri=https://host/?token=hunter2", "tracking.uri holds", "go into MLFLOW_TRACKING_URI"),
        ("deepspeed.comms_logger.api_key=hunter2", "deepspeed holds", "({'comms_logger': {'api_key': '***'}})"),
        ("deepspeed.a=[{token: hunter2}]", "deepspeed holds", "({'a': [{'token': '***'}]})"),
        ("optimizer.options.password=hunter2", "optimizer.options holds", "({'password': '***'})"),
    ],
)
def test_secrets_have_no_place_in_what_is_saved(write: Path, override: str, what: str, shown: str) -> None:
    said = message(write, override)
    assert what in said
    assert shown in said
    assert "hunter2" not in said


def test_every_key_is_documented_and_described() -> None:
    keys = all_keys()
    assert keys["train.epochs"].default == 25
    assert [key.name for key in keys.values() if not key.doc or key.valid == "a value"] == []
    assert [key.name for key in keys.values() if key.free] == [
        "data.columns",
        "optimizer.options",
        "deepspeed",
        "search.space",
        "compare.method_rates",
        "study.optimizer_rates",
    ]
    leaves = {name for name, key in keys.items() if not key.section}
    assert leaves == set(_leaves(Config(model="m"), ""))


def _leaves(model: BaseModel, prefix: str) -> list[str]:
    found = []
    for name, value in model.__dict__.items():
        found += _leaves(value, f"{prefix}{name}.") if isinstance(value, BaseModel) else [prefix + name]
    return found


@pytest.mark.parametrize(
    ("overrides", "without_effect"),
    [
        ([], []),
        (["train.rule=none", "train.mask_on=gradient", "train.refresh=4"], ["train.mask_on", "train.refresh"]),
        (["train.refresh=epoch", "train.mastered_batch_size=8"], ["train.mastered_batch_size"]),
        (["train.rule=replay", "train.refresh=epoch", "train.mastered_batch_size=8"], ["train.refresh"]),
        (["train.rule=ewc", "train.mastered_batch_size=8", "method.fisher_items=9"], ["train.mastered_batch_size"]),
        (["train.rule=mofo", "train.mask_on=gradient", "method.density=0.1"], ["train.mask_on"]),
        (["train.rule=l2sp", "method.strength=1", "method.fisher_items=9"], ["method.fisher_items"]),
        (["method.replay_weight=2", "method.density=0.1"], ["method.replay_weight", "method.density"]),
        (
            ["train.rule=agem", "train.refresh=epoch", "train.mastered_state=full", "train.mastered_batch_size=8"],
            ["train.mastered_state", "train.mastered_batch_size"],
        ),
        (["train.rule=gem", "method.memory=2", "method.margin=0.5", "method.density=0.1"], ["method.density"]),
        (["method.memory=2"], ["method.memory"]),
        (["train.refresh=2", "train.mastered_batch_size=8"], []),
        (["optimizer.momentum=0.9"], ["optimizer.momentum"]),
        (["optimizer.compile=always"], []),
        (["train.rule=gem", "optimizer.compile=never"], []),
        (["train.rule=mofo", "optimizer.compile=never"], ["optimizer.compile"]),
        (["cluster.use_gpu=true", "optimizer.compile=always"], []),
        (["train.mask_on=gradient", "optimizer.compile=always"], ["optimizer.compile"]),
        (["optimizer.name=sgd", "optimizer.momentum=0.9"], []),
        (["optimizer.name=sgd", "optimizer.betas=[0.9, 0.999]"], ["optimizer.betas"]),
        (["assess.scorer=letter_logit", "assess.max_new_tokens=3", "assess.permutations=2"], ["assess.max_new_tokens"]),
        (["assess.permutations=2"], ["assess.permutations"]),
        (["data.items=null", "data.mastered=m", "data.injection=i", "split.seed=3"], ["split.seed"]),
        (["tracking.enabled=false", "tracking.uri=http://h:1"], ["tracking.uri"]),
        (["data.dataset_split=test"], ["data.dataset_split"]),
        (["data.dataset_split=test", "data.items=squad"], []),
        (["train.shuffle=false", "data.shuffle_window=9"], ["data.shuffle_window"]),
        (["propose.prompts=p.txt", "propose.temperature=2", "propose.seed=1"], ["propose.temperature"]),
        (["prompt.chat=true", "propose.template={question}"], ["propose.template"]),
    ],
)
def test_notices(write: Path, overrides: list[str], without_effect: list[str]) -> None:
    config = load_config(write, overrides)
    assert [sentence.split()[0] for sentence in notices(config)] == without_effect
    write.write_text(dump_config(config))
    # a saved configuration sets every key; repeating a default is then nothing to remark on
    assert len(notices(load_config(write))) <= len(without_effect)
