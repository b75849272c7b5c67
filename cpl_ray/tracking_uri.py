"""Where MLflow lives for a run, and how addresses are shown: without their secrets.

Apart from `tracking.py` because it needs no MLflow: any stage may check the address before it starts, in no time.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from cpl_ray.config import Config
from cpl_ray.errors import ConfigError

HIDDEN = "***"
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
SERVERS = ("http", "https", "databricks")

_USER_INFO = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*://)[^/\s'\"]*@")
_QUERY = re.compile(
    r"(?P<key>[?&;](?:password|passwd|pwd|token|secret|api_?key|access_?key|sslpassword|sig)=)[^&;\s'\"]+",
    re.IGNORECASE,
)
_SECRET_KEY = re.compile(
    r"(^|[_\-.])(password|passwd|pwd|secret|token|api_?key|access_?key|credentials?)$", re.IGNORECASE
)


def redact(text: str) -> str:
    """Return `text` with the user and password of every URI in it, and secret query values, replaced by `***`."""
    return _QUERY.sub(rf"\g<key>{HIDDEN}", _USER_INFO.sub(rf"\g<scheme>{HIDDEN}@", text))


def is_secret_key(key: str) -> bool:
    """Tell whether a setting of this (dotted) name holds a secret by its name, e.g. `hub.token` or `api_key`."""
    return _SECRET_KEY.search(key) is not None


def redacted(value: Any, key: str = "") -> Any:
    """Return `value` with what is secret by the name of its key, and users and passwords of addresses, as `***`."""
    if key and value is not None and is_secret_key(key):
        return HIDDEN
    if isinstance(value, Mapping):
        return {name: redacted(one, str(name)) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(one) for one in value]
    return redact(value) if isinstance(value, str) else value


def check_no_secret(config: Config) -> None:
    """Refuse a secret in the configuration: it would be saved with every run, in `config.yaml`.

    Raises:
        ConfigError: `tracking.uri` or a free section holds what `redacted` would hide.
    """
    free = {
        "tracking.uri": config.tracking.uri,
        "deepspeed": config.deepspeed,
        "optimizer.options": config.optimizer.options,
    }
    for name, value in free.items():
        shown = redacted(value)
        if shown != value:
            raise ConfigError(
                f"{name} holds a user, password or token, which would be saved with the run ({shown}); leave it out. "
                "A tracking server's go into MLFLOW_TRACKING_URI, or MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            )


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
