"""The command line as a user meets it: in a process of its own, judged by output and exit code."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cpl_ray.config import Config
from cpl_ray.keys import all_keys
from cpl_ray.loading import load_config

ROOT = Path(__file__).resolve().parents[2]
VERBS = (
    "run",
    "sweep",
    "study",
    "propose",
    "assess",
    "train",
    "evaluate",
    "register",
    "promote",
    "rollback",
    "report",
    "validate",
    "plan",
    "init",
    "env",
    "runs",
)
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "MLFLOW_TRACKING_URI": ""}
ITEM = {"question": "Which is even?", "choices": ["one", "two"], "answer": 1}


def cpl(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pipelines", *arguments]
    return subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def write_rows(path: Path, *rows: object) -> None:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))


def test_help_lists_the_verbs(tmp_path: Path) -> None:
    done = cpl("--help", folder=tmp_path)
    assert done.returncode == 0
    assert [verb for verb in VERBS if f" {verb} " not in done.stdout] == []


def test_help_imports_nothing_heavy(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    code = (
        "import sys\nfrom pipelines.__main__ import main\n"
        "for verb in ([], *([v] for v in sys.argv[1].split())):\n"
        "    sys.argv[1:] = [*verb, '--help']\n"
        "    try: main()\n"
        "    except SystemExit as exit: assert exit.code == 0, (verb, exit.code)\n"
        "heavy = {'torch', 'ray', 'transformers', 'mlflow', 'deepspeed', 'datasets', 'pandas', 'pyarrow'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, " ".join(VERBS)], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True
    )
    record_property("help_of_all_verbs_s", time.perf_counter() - start)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "heavy: []"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("Usage",)),
        (("fly",), ("No such command", "fly")),
        (("train",), ("Missing argument", "CONFIG.yaml")),
        (("train", "c.yaml", "--fast"), ("No such option", "--fast")),
        (("train", "none.yaml"), ("no configuration file none.yaml", "cpl init")),
        (("train", "c.yaml", "train.epoch=3"), ("unknown key 'train.epoch'", "did you mean 'train.epochs'")),
        (("train", "c.yaml", "epochs"), ("key=value",)),
        (("train", "c.yaml", "train.epochs=none"), ("train.epochs", "'none'", "an integer of at least 1")),
        (("train", "c.yaml", "run.dir=file/runs"), ("run.dir", "cannot write")),
        (("train", "c.yaml", "run.resume=true"), ("run.name",)),
        (("run", "c.yaml", "run.resume=true", "run.name=b"), ("no run 'b'",)),
        (("evaluate", "c.yaml"), ("run.name is not set",)),
        (("register", "c.yaml", "run.name=b"), ("no run 'b'",)),
        (("promote", "c.yaml", "run.name=b"), ("no run 'b'",)),
        (("validate",), ("CONFIG.yaml",)),
        (("runs",), ("no folder", "--runs")),
        (("runs", "--runs", "file"), ("no folder", "file")),
        (("runs", "show"), ("Missing argument", "NAME_OR_FOLDER")),
        (("runs", "show", "b"), ("no run or sweep 'b'",)),
        (("runs", "fly"), ("No such command", "fly")),
    ],
)
def test_wrong_usage_is_3_with_a_message(tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    (tmp_path / "c.yaml").write_text("model: m\ndata: {items: a.jsonl}\n")
    (tmp_path / "file").write_text("")
    done = cpl(*arguments, folder=tmp_path)
    assert done.returncode == 3, done.stderr
    text = " ".join((done.stdout + done.stderr).split())
    assert [word for word in words if word not in text] == []
    assert "Traceback" not in text
    assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").iterdir())


def test_wrong_usage_shows_no_secret(tmp_path: Path) -> None:
    secret = "x9y8z7"
    for word in (f"--uri=http://me:{secret}@h/", f"http://me:{secret}@h/"):
        for before in ((), ("--json",), ("validate", "c.yaml"), ("validate", "--json", "c.yaml")):
            done = cpl(*before, word, folder=tmp_path)
            assert done.returncode == 3
            assert done.stdout + done.stderr
            assert secret not in done.stdout + done.stderr, before


def test_json_on_a_failure_is_one_object_on_stdout(tmp_path: Path) -> None:
    for arguments in (("train", "none.yaml", "--json"), ("train", "none.yaml", "--json", "--fast")):
        done = cpl(*arguments, folder=tmp_path)
        found = json.loads(done.stdout)
        assert (done.returncode, found["exit_code"], found["ok"]) == (3, 3, False)
        assert found["error"]["message"]
        (event,) = map(json.loads, done.stderr.splitlines())
        assert (event["event"], event["message"]) == ("error", found["error"]["message"])


def test_verbose_shows_the_traceback(tmp_path: Path) -> None:
    assert "Traceback" in cpl("train", "none.yaml", "-v", folder=tmp_path).stderr


def test_init_then_validate(tmp_path: Path) -> None:
    made = cpl("init", folder=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "cpl validate cpl.yaml" in made.stdout
    config = load_config(tmp_path / "cpl.yaml")
    assert config == Config.model_validate({"model": config.model, "data": {"items": "items.jsonl"}})
    done = cpl("validate", "cpl.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "global batch" in done.stdout
    assert "the configuration is valid" in done.stdout


def test_init_overwrites_nothing_unasked(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("mine")
    write_rows(tmp_path / "items.jsonl", ITEM)
    before = (tmp_path / "items.jsonl").read_bytes()
    done = cpl("init", "c.yaml", folder=tmp_path)
    assert done.returncode == 3
    assert "--force" in done.stderr
    assert (tmp_path / "c.yaml").read_text() == "mine"
    found = json.loads(cpl("init", "c.yaml", "--force", "--json", folder=tmp_path).stdout)
    assert found["written"] == ["c.yaml"]
    assert (tmp_path / "items.jsonl").read_bytes() == before


def test_every_line_of_the_starter_can_be_uncommented(tmp_path: Path) -> None:
    cpl("init", "c.yaml", folder=tmp_path)
    text = (tmp_path / "c.yaml").read_text()
    lines = []
    num_uncommented = 0
    for line in text.splitlines():
        indent, mark, rest = line.partition("# ")
        is_key = mark and not indent.strip() and "#= " in rest
        num_uncommented += bool(is_key)
        lines.append(indent + rest if is_key else line)
    (tmp_path / "all.yaml").write_text("\n".join(lines))
    assert load_config(tmp_path / "all.yaml") == load_config(tmp_path / "c.yaml")
    assert num_uncommented == sum(not key.section for key in all_keys().values()) - 2


def test_validate_plans_a_run_on_brought_sets(tmp_path: Path) -> None:
    write_rows(tmp_path / "m.jsonl", *({**ITEM, "question": f"mastered {n}"} for n in range(5)))
    write_rows(tmp_path / "i.jsonl", *({**ITEM, "question": f"injection {n}"} for n in range(7)))
    (tmp_path / "c.yaml").write_text("model: m\ndata: {mastered: m.jsonl, injection: i.jsonl}\n")
    overrides = ("cluster.num_workers=2", "train.micro_batch_size=1", "train.gradient_accumulation_steps=3")
    done = cpl("validate", "c.yaml", *overrides, "split.seed=4", "zero_stage=3", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    plan = found["plan"]
    assert plan["num_items"] == {"mastered": 5, "injection": 7}
    assert (plan["global_batch_size"], plan["updates_per_epoch"], plan["zero_stage"]) == (6, 2, 3)
    assert plan["scorer"] == "choice_loglik"
    assert [notice.split()[0] for notice in found["notices"]] == ["split.seed"]
    assert "split.seed has no effect" in done.stderr


def test_validate_lists_every_problem(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "file").write_text("")
    write_rows(tmp_path / "a.jsonl", ITEM, "not json\n", "[1]\n")
    (tmp_path / "c.yaml").write_text("model: ./model\ndata: {items: a.jsonl}\nrun: {dir: file/runs}\n")
    done = cpl("validate", "c.yaml", folder=tmp_path)
    assert done.returncode == 3
    expected = ("safetensors", "tokenizer", "run.dir", "2 of 3 rows", "a.jsonl", "data.max_rejected=0.1")
    assert [word for word in expected if word not in done.stderr] == []


@pytest.mark.parametrize("model", ["./nowhere", "c.yaml", "empty", "a/b/c"])
def test_validate_refuses_what_is_no_model(tmp_path: Path, model: str) -> None:
    write_rows(tmp_path / "a.jsonl", ITEM)
    (tmp_path / "empty").mkdir()
    (tmp_path / "c.yaml").write_text(f"model: {model}\ndata: {{items: a.jsonl}}\n")
    done = cpl("validate", "c.yaml", folder=tmp_path)
    assert done.returncode == 3, done.stdout
    assert f"model {model!r}" in done.stderr or f"folder {model!r}" in done.stderr


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("{}", ("data.items", "data.mastered")),
        ("{items: none.jsonl}", ("data.items", "none.jsonl")),
        ("{items: empty.jsonl}", ("data.items", "no rows")),
        ("{mastered: a.jsonl, injection: a.jsonl}", ("more than one part",)),
        ("{assessment: nowhere}", ("no assessment in nowhere", "cpl assess")),
    ],
)
def test_validate_refuses_unusable_data(tmp_path: Path, data: str, words: tuple[str, ...]) -> None:
    write_rows(tmp_path / "a.jsonl", ITEM)
    write_rows(tmp_path / "empty.jsonl")
    (tmp_path / "c.yaml").write_text(f"model: m\ndata: {data}\n")
    done = cpl("validate", "c.yaml", folder=tmp_path)
    assert done.returncode == 3, done.stdout
    assert [word for word in words if word not in done.stderr] == []
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--gpu", "A100-80"), ("did you mean A100-80GB?", "MI300X", "cpu")),
        (("cluster.use_gpu=true",), ("--gpu A100-80GB",)),
    ],
)
def test_plan_needs_an_accelerator_it_knows(tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    (tmp_path / "c.yaml").write_text("model: m\n")
    done = cpl("plan", "c.yaml", *arguments, folder=tmp_path)
    assert done.returncode == 3, done.stdout
    assert [word for word in words if word not in done.stderr] == []


def test_schema_accepts_what_loads(tmp_path: Path) -> None:
    import jsonschema

    schema = json.loads(cpl("validate", "--schema", folder=tmp_path).stdout)
    jsonschema.validate({"model": "m", "train": {"epochs": 3, "refresh": "epoch"}}, schema)
    with pytest.raises(jsonschema.ValidationError, match="epoch"):
        jsonschema.validate({"model": "m", "train": {"epoch": 3}}, schema)


def test_env_for_people_and_machines(tmp_path: Path) -> None:
    assert "ray" in cpl("env", folder=tmp_path).stdout
    found = json.loads(cpl("env", "--json", folder=tmp_path).stdout)
    assert found["ok"] is True
    assert found["versions"]["typer"]
