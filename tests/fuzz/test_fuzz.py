"""Whatever is in a file or a configuration: a result, or a message that names the place; never another exception.

`make fuzz` generates more than 10,000 cases and says how many; the ordinary tests a part of them.
"""

import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cpl_ray.config import DataConfig, PromptConfig
from cpl_ray.encoding import SCORERS, Encoder
from cpl_ray.errors import ConfigError, UserError
from cpl_ray.items import Item, RowError, parse_row
from cpl_ray.loading import dump_config, load_config
from cpl_ray.reading import read_items
from tests.fuzz import strategies as given_by
from tests.unit.test_encoding import CHATML, make_tokenizer

CASES = int(os.environ.get("CPL_FUZZ_CASES", "60"))
COUNTS: Counter[str] = Counter()
_TEMPORARY = tempfile.TemporaryDirectory(prefix="cpl-fuzz-")  # no fixture: guided.py has none
FOLDER = Path(_TEMPORARY.name)
many = settings(max_examples=CASES, suppress_health_check=list(HealthCheck))
TOKENIZERS: dict[str, Any] = {
    "no pad, no start": make_tokenizer(),
    "start and end added": make_tokenizer(bos=True, add="<s> $A </s>"),
    "no special token at all": make_tokenizer(eos=False),
    "words with metaspace": make_tokenizer(metaspace=True),
    "chat template": make_tokenizer(chat=CHATML),
}


def outcome(name: str, said: str) -> None:
    COUNTS[f"{name}: {said}"] += 1


def check_source(path: Path, name: str) -> None:
    """Read a file as items; hold every row to account."""
    try:
        read = read_items(str(path), DataConfig.model_validate({"items": str(path)}), name="data.items")
    except UserError as error:
        assert str(path) in str(error) or "data.items" in str(error)
        outcome(name, "refused as a whole")
        return
    assert len(read.items) + len(read.rejected) == read.num_rows
    assert all(row.reason.strip() and row.row >= 1 and row.file == str(path) for row in read.rejected)
    for item in read.items:
        assert Item.from_json(item.to_json()) == item
        assert item.target.strip()
    assert len({item.id for item in read.items}) == len(read.items)
    outcome(name, "items and rejections")


@settings(many, max_examples=3 * CASES)
@given(file=given_by.FILES)
def test_text_files(file: tuple[str, bytes]) -> None:
    kind, content = file
    (FOLDER / f"rows.{kind}").write_bytes(content)
    check_source(FOLDER / f"rows.{kind}", kind)


@many
@given(table=given_by.TABLES, damage=st.none() | st.integers(0, 200))
def test_parquet(table: pa.Table, damage: int | None) -> None:
    path = FOLDER / "rows.parquet"
    pq.write_table(table, path)
    if damage is not None:  # torn in the middle of a write
        content = path.read_bytes()
        path.write_bytes(content[: max(0, len(content) - damage)])
    check_source(path, "parquet")


@many
@given(content=given_by.YAML)
def test_configuration_files(content: bytes) -> None:
    path = FOLDER / "c.yaml"
    path.write_bytes(content)
    try:
        config = load_config(path)
    except ConfigError as error:
        assert str(path) in str(error) or "." in str(error)
        assert len(str(error)) < 20_000
        assert error.exit_code == 3
        outcome("configuration", "refused")
        return
    (FOLDER / "again.yaml").write_text(dump_config(config), encoding="utf-8")
    assert load_config(FOLDER / "again.yaml") == config
    outcome("configuration", "valid")


@many
@given(overrides=given_by.OVERRIDES)
def test_overrides(overrides: list[str]) -> None:
    path = FOLDER / "base.yaml"
    path.write_text("model: m\ndata: {items: a.jsonl}\n", encoding="utf-8")
    try:
        load_config(path, overrides)
    except ConfigError as error:
        assert str(error).strip()
        assert len(str(error)) < 20_000
        outcome("overrides", "refused")
        return
    outcome("overrides", "valid")


@many
@given(
    row=given_by.GOOD_ROWS,
    kind=st.sampled_from(sorted(TOKENIZERS)),
    scorer=st.sampled_from(SCORERS),
    chat=st.booleans(),
    max_length=st.integers(1, 120) | st.integers(60, 400),
    over_long=st.sampled_from(["cut", "reject"]),
    append_eos=st.booleans(),
)
def test_encoding(
    row: dict[str, Any], kind: str, scorer: str, chat: bool, max_length: int, over_long: str, append_eos: bool
) -> None:
    """The answer is whole, whatever is cut; what does not fit is refused."""
    try:
        item = parse_row(row, format="auto", columns={}, row_number=1, default_id="1")
    except RowError as error:
        assert str(error).strip()
        outcome("encoding", "row refused")
        return

    def encoder(length: int) -> Encoder:
        prompt = PromptConfig(chat=chat)
        words = TOKENIZERS[kind]
        return Encoder(
            words, scorer=scorer, prompt=prompt, max_length=length, over_long=over_long, append_eos=append_eos
        )

    try:
        whole = encoder(100_000).training(item)
        encoded = encoder(max_length).training(item)
    except (RowError, ConfigError) as error:
        assert str(error).strip()
        outcome("encoding", "refused")
        return
    assert encoded.target_ids == whole.target_ids
    assert len(encoded.target_ids) > 0
    assert len(encoded.context_ids) + len(encoded.target_ids) <= max_length
    outcome("encoding", "encoded" if encoded.context_ids == whole.context_ids else "question cut")


@pytest.fixture(scope="session", autouse=True)
def told() -> Any:
    """Print how many cases there were and what became of them (`pytest -s`)."""
    yield
    for name, count in sorted(COUNTS.items()):
        print(f"\n{count:>7} {name}", end="")
    print(f"\n{COUNTS.total():>7} cases in all")
