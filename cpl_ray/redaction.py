"""What is secret in a text or a setting, and how it is shown: as `***`."""

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"

# What stands between `://` and the `@` of the host. Either nothing in it looks like a path, or it begins with a user
# and what follows the colon is no port: then it is a password, which people forget to quote and may hold anything.
_PLAIN = r"""(?:[^/?#\s'"]|(?<=\w)'(?=\w))*"""
_NO_PORT = r"(?!//|\d{1,5}(?:[^\w%@]|$))"
_WITH_PASSWORD = rf"""[^/?#\s:'"\[\]]*:{_NO_PORT}(?:(?!://|'[\s,;:)\]}}]|'$)[^\s"])*"""
_WITH_SPACES = rf"""[^/?#\s:'"\[\]]*:{_NO_PORT}[^\s"@]+(?:[ ][^\s"@,;]+){{1,3}}"""
_USER_INFO = re.compile(rf"(?<=[A-Za-z0-9+.\-])://(?:{_WITH_PASSWORD}|{_WITH_SPACES}|{_PLAIN})@")
_NOT_HIDDEN = r"(?!\*{3}(?!\w))"  # what is hidden already is left as it is, with the bracket after it
_QUERY = re.compile(
    r"(?P<key>[?&;#][\w.%\-]*(?:token|secret|signature|credentials?|key|password|passwd|pwd|sig|auth)=)"
    rf"{_NOT_HIDDEN}[^&;\s'\"]+",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"(?P<head>\bauthorization\W{1,4}(?:basic|bearer|digest|token)[ ]+"
    rf"|\bbearer[ ]+(?=[\w.~+/=\-]*\d|[\w.~+/=\-]{{20}})){_NOT_HIDDEN}[^\s'\",;]+",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"\b(?:hf_|gh[opsru]_|github_pat_|glpat-|dapi|sk-)[A-Za-z0-9_]{16,}")
"""Access tokens of hubs, which begin alike."""
_SECRET_KEY = re.compile(
    r"(^|[_\-.])(password|passwd|pwd|secrets?|token|api_?key|(secret|access|private)_?key|credentials?|auth(orization)?)$"
    r"|(?-i:[a-z](Password|Secret|Token|ApiKey|AccessKey|PrivateKey)$)",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """Return `text` with user and password of every URI in it, secret query values and access tokens as `***`."""
    text = _USER_INFO.sub(f"://{HIDDEN}@", text)
    text = _QUERY.sub(rf"\g<key>{HIDDEN}", text)
    return _TOKEN.sub(HIDDEN, _HEADER.sub(rf"\g<head>{HIDDEN}", text))


def is_secret_key(key: str) -> bool:
    """Tell whether a setting of this (dotted) name holds a secret by its name, e.g. `hub.token` or `api_key`."""
    return _SECRET_KEY.search(key) is not None


def redacted(value: Any, key: str = "") -> Any:
    """Return `value` with what is secret by the name of its key, and what `redact` hides in texts, as `***`."""
    if key and value is not None and is_secret_key(key):
        return HIDDEN
    if isinstance(value, Mapping):
        return {_name(name): redacted(one, str(name)) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(one) for one in value]
    return redact(value) if isinstance(value, str) else value


def _name(name: Any) -> Any:
    return redact(name) if isinstance(name, str) else name
