"""Where MLflow lives for a run, and that no address with a secret is saved with it (`redaction.py`).

Apart from `tracking.py` because it needs no MLflow: any stage may check the address before it starts, in no time.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from cpl_ray.config import Config
from cpl_ray.errors import ConfigError
from cpl_ray.redaction import HIDDEN, is_secret_key, redact, redacted

__all__ = ["HIDDEN", "is_secret_key", "redact", "redacted"]  # also to be had from here, where most look for them
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
SERVERS = ("http", "https", "databricks")

_SHOWN_TO_MODELS = ("prompt", "propose.template", "study.templates")
"""Settings that are texts for models, in which anything may stand."""


def check_no_secret(config: Config) -> None:
    """Refuse a secret in the configuration: it would be saved with every run, in `config.yaml`.

    Raises:
        ConfigError: a setting, other than the texts that models are shown, holds what `redacted` would hide.
    """
    for name, value in _settings(config.model_dump(), ""):
        shown = redacted(value)
        if name == "tracking.uri" and shown == value and value is not None:
            shown = _without_user(value)
        if shown != value:
            raise ConfigError(
                f"{name} holds a user, password or token, which would be saved with the run ({shown}); leave it out. "
                "A tracking server's go into MLFLOW_TRACKING_URI, or MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            )


def _settings(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield the settings that are looked at, by name; free mappings as a whole."""
    for leaf, value in tree.items():
        name = prefix + leaf
        if name in _SHOWN_TO_MODELS:
            continue
        if not prefix and leaf != "deepspeed" and isinstance(value, Mapping):
            yield from _settings(value, f"{name}.")
        else:
            yield name, list(value) if isinstance(value, tuple) else value


def _without_user(uri: str) -> str:
    """Return the address of a server or database without what stands before its last `@`, however odd that is.

    `redact` takes `http://u:123/x@host` for a port and a path; no tracking server has such a path.
    """
    head, separator, rest = uri.partition("://")
    if not separator or scheme(uri) == "sqlite" or "@" not in rest:
        return uri
    return f"{head}://{HIDDEN}@{rest.rpartition('@')[2]}"


def default_uri(config: Config, run_root: Path) -> str:
    """Return the tracking URI of a run: `tracking.uri`, else `MLFLOW_TRACKING_URI`, else an SQLite file.

    Args:
        config: the run.
        run_root: folder of all runs (`run.dir`); the default database is `mlflow.db` there, as an absolute path.

    Raises:
        ConfigError: the URI is a plain path or a `file:` store, which MLflow no longer writes, or of no known kind.
    """
    uri = config.tracking.uri
    key = "tracking.uri"
    if uri is None:
        uri, key = os.environ.get("MLFLOW_TRACKING_URI") or None, "MLFLOW_TRACKING_URI"
    if uri is None:
        return f"sqlite:///{run_root.expanduser().absolute() / 'mlflow.db'}"
    kind = scheme(uri)
    if kind in ("", "file"):
        raise ConfigError(
            f"{key}: {redact(uri)!r} is a file store, which MLflow has given up; use a database such as "
            "sqlite:////absolute/path/mlflow.db or a server such as http://host:5000"
        )
    if kind not in DATABASES + SERVERS:
        raise ConfigError(f"{key}: {redact(uri)!r} is of no known kind; valid are {', '.join(DATABASES + SERVERS)}")
    path = sqlite_path(uri)
    return uri if path is None else f"sqlite:///{path}"


def required_uri(config: Config, run_root: Path) -> str:
    """Return `default_uri` for what cannot do without MLflow.

    Raises:
        ConfigError: tracking is off, or the URI is not usable.
    """
    if not config.tracking.enabled:
        raise ConfigError("tracking.enabled is false; registering a model needs MLflow, set tracking.enabled=true")
    return default_uri(config, run_root)


def scheme(uri: str) -> str:
    """Return the scheme without its driver, e.g. `postgresql` of `postgresql+psycopg2://…`; empty for a plain path."""
    if uri == "databricks":
        return uri
    head, colon, _ = uri.partition(":")
    return head.partition("+")[0].lower() if colon and len(head) > 1 else ""  # one letter: a Windows drive


def sqlite_path(uri: str) -> Path | None:
    """Return the absolute path of an SQLite database file; None for anything else (also a database in memory)."""
    prefix = "sqlite:///"
    path = uri.removeprefix(prefix).partition("?")[0]
    if not uri.startswith(prefix) or not path or path == ":memory:":
        return None
    return Path(unquote(path)).expanduser().absolute()  # as SQLAlchemy does


def artifact_location(uri: str, run_root: Path) -> str | None:
    """Return where a new experiment keeps its artifacts, as an absolute file URI; None: the server decides.

    Without it MLflow takes `mlruns` below whatever folder the process happens to be in. Artifacts lie beside an SQLite
    file and in `run_root` for other databases.
    """
    if scheme(uri) in SERVERS:
        return None
    database = sqlite_path(uri)
    folder = database.parent if database is not None else run_root.expanduser().absolute()
    return (folder / "mlartifacts").as_uri()
