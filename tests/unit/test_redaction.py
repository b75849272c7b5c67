"""What `redact` hides of a text and what it leaves alone, and which settings are refused for a secret in them."""

from pathlib import Path

import pytest

from cpl_ray.config import Config
from cpl_ray.errors import ConfigError
from cpl_ray.loading import load_config
from cpl_ray.redaction import is_secret_key, redact, redacted
from cpl_ray.tracking_uri import check_no_secret

SECRETS = [
    ("https://h/?access_token=hunter2", "https://h/?access_token=***"),
    ("https://h/?a=1&auth_token=hunter2&b=2", "https://h/?a=1&auth_token=***&b=2"),
    ("https://h/?client_secret=hunter2", "https://h/?client_secret=***"),
    ("https://h/?refresh_token=hunter2", "https://h/?refresh_token=***"),
    ("https://h/?access%5Ftoken=hunter2", "https://h/?access%5Ftoken=***"),
    ("https://h/#access_token=hunter2", "https://h/#access_token=***"),
    ("https://h/?X-Amz-Signature=hunter2", "https://h/?X-Amz-Signature=***"),
    ("postgresql://user:pa/hunter2@h/db", "postgresql://***@h/db"),
    ("postgresql://user:pa@hunter2/x@h/db", "postgresql://***@h/db"),
    ("postgresql://user:it's-hunter2@h/db", "postgresql://***@h/db"),
    ("postgresql://user:#hunter2?@h/db", "postgresql://***@h/db"),
    ("https://user:my hunter2@h/x", "https://***@h/x"),
    ("https://hunter2@h/x", "https://***@h/x"),
    ("https://user:12345@h/x", "https://***@h/x"),
    ("http://u:hunter2@h,http://v:hunter2@i", "http://***@h,http://***@i"),
    ("Authorization: Bearer hunter2", "Authorization: Bearer ***"),
    ("Authorization: Basic aHVudGVy", "Authorization: Basic ***"),
    ("{'auth': 'bearer hunter2'}", "{'auth': 'bearer ***'}"),
    ("hf_abcdefghijklmnopqrstuvwxyzABCDEFGH", "***"),
]
HARMLESS = [
    "see https://h:5000/x and write to ann@example.org",
    "http://h:5000: connection refused, ask a@b.c",
    "https://h/path/a@b.com",
    "https://h/x?mail=a@b.c&page=2",
    "https://h:5000?mail=a@b",
    "sqlite:////home/a@b/mlflow.db",
    "{'uri': 'http://h:80', 'mail': 'a@b'}",
    '{"uri":"http://h:80","mail":"a@b"}',
    "'http://h:5000','a@b'",
    "http://[::1]:5000/x@y",
    "https://h: no answer, ask a@b",
    "the standard bearer carries a flag",
    "the package hf_transfer",
    "train.max_new_tokens=3",
]


@pytest.mark.parametrize(("text", "shown"), SECRETS)
def test_hidden(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(f"error: {text!r} is wrong") != f"error: {text!r} is wrong"
    assert redact(shown) == shown
    assert redact(f"({shown}); leave it out") == f"({shown}); leave it out"


@pytest.mark.parametrize("text", HARMLESS)
def test_left_alone(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("piece", ["x", "://a:", "a:", "b ", "?a", "&token", "hf_", "bearer ", "authorization:", "'a"])
def test_long_texts_are_read_in_one_go(piece: str) -> None:
    """A pattern that goes back and forth would take minutes for one of these."""
    redact("://u:" + piece * 40_000)
    redact(piece * 40_000)


def test_keys_that_hold_secrets() -> None:
    hidden = ["private_key", "auth", "authorization", "hub.token", "api_key", "clientSecret", "a.accessKey", "secrets"]
    assert [key for key in hidden if not is_secret_key(key)] == []
    shown = ["author", "max_new_tokens", "key", "tokens_per_s", "authors", "zero_optimization.stage", "tokenizer"]
    assert [key for key in shown if is_secret_key(key)] == []


def message(folder: Path, *overrides: str) -> str:
    (folder / "c.yaml").write_text("model: m\ndata: {items: a.jsonl}\n")
    with pytest.raises(ConfigError) as raised:
        load_config(folder / "c.yaml", overrides)
    return redact(str(raised.value))


@pytest.mark.parametrize("uri", [text for text, _ in SECRETS if "://" in text] + ["https://u:12/hunter2@h"])
def test_a_tracking_server_with_a_secret_is_refused(tmp_path: Path, uri: str) -> None:
    said = message(tmp_path, f'tracking.uri="{uri}"')
    assert "tracking.uri holds a user, password or token" in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ('deepspeed={private_key: hunter2, auth: "Bearer hunter2"}', "deepspeed holds"),
        ('deepspeed={password: x, other: "Bearer hunter2"}', "deepspeed holds"),
        ("deepspeed={'https://u:hunter2@h': 1}", "deepspeed holds"),
        ("model=https://u:hunter2@h/x", "model holds"),
        ("data.items=[a.jsonl, 'https://u:hunter2@h/x.jsonl']", "data.items holds"),
        ("tracking.url=https://u:hunter2@h", "unknown key 'tracking.url'"),
        ("hub.token=hunter2", "token=***"),
        ("train.epochs=https://u:hunter2@h", "train.epochs"),
        ("train.epochs='https://u:hunter2" + "x" * 100 + "@h'", "train.epochs"),
    ],
)
def test_no_message_shows_a_secret(tmp_path: Path, override: str, what: str) -> None:
    said = message(tmp_path, override)
    assert what in said
    assert "hunter2" not in said


def test_settings_without_secrets_are_valid() -> None:
    settings = {
        "model": "owner/name",
        "tracking": {"uri": "sqlite:////home/a@b/mlflow.db"},
        "prompt": {"template": "Bearer token1234: {question} https://u:p@h"},
        "deepspeed": {"zero_optimization": {"stage3_prefetch_bucket_size": 1}, "comms_logger": {"enabled": True}},
    }
    check_no_secret(Config.model_validate(settings))
    assert redacted(settings["deepspeed"]) == settings["deepspeed"]
