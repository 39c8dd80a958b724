"""Read secrets, and remove them from all text that is written or shown.

Secrets are kept in the environment only. All text that leaves a process (a message, a log line, a
state, a tag) goes through `redact`, which removes three kinds:

- credentials in URLs: `user:password@`, and query parameters that sign or authorise a request;
- values of environment variables that `is_secret_variable` names, and passwords of URLs in environment variables;
- private keys in PEM.

Values of fewer than SHORTEST characters stay, because they cannot be distinguished from ordinary text.
"""

import base64
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from dataops.escaping import escape_controls

if TYPE_CHECKING:
    from pydantic import SecretStr

SHORTEST = 8
HIDDEN = "***"

_NAME = re.compile(
    r"(^|[^A-Z])(PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|CREDENTIALS?|AUTH_STRING|(API|ACCESS|PRIVATE|SECRET|SIGNING|ENCRYPTION)[_-]?KEY)$",
    re.IGNORECASE,
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SECRET_WORD = re.compile(
    r"PASS(W|PHR|COD)|SECRET|CREDENTIAL|WEBHOOK|AUTHORI[SZ]ATION|TOKEN(?!I)|KEY(STORE|TAB|RING|PAIR|DATA)"
    r"|(KEY|PASS|PWD|PSK|PEM|PAT|JWT|CRED|AUTH|BEARER|COOKIE)S?$|PW$|^(PRIVATE|LOGIN|DSN|SAS|SK|PFX|HMAC|OTP|SALT|CONNSTR)$"
)
_ORDINARY_WORDS = frozenset("BYPASS COMPASS TRESPASS COMPAT SPAT MONKEY DONKEY JOCKEY HOTKEY".split())  # noqa: SIM905
_ORDINARY_NAME = re.compile(r"^(OLD)?PWD$|(FILE|PATH|DIR|SOCK|(MAX|NEW|NUM)_TOKENS)$")  # paths and numbers
# Greedy, because an unescaped password may contain an @; it ends at the path, where an @ is an ordinary character.
_USERINFO = re.compile(r"(?<=://)[^/\s?#\"'<>]*@")
_SIGNED = re.compile(
    r"(?<=[?&;])((?:X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)|sig|signature|AWSAccessKeyId|(?:access_|auth_)?token"
    r"|password|passwd|secret|api_?key)=)[^&;#\s\"'<>]+",
    re.IGNORECASE,
)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----(?:.*?-----END [A-Z ]{0,20}PRIVATE KEY-----|.*)", re.DOTALL
)
_PASSWORD = re.compile(r"://[^/:@\s]*:(.+)@[^@]*$", re.DOTALL)


def is_secret_name(name: str) -> bool:
    """Return whether a field or key has the name of a secret: `token`, `db.password`."""
    return bool(_NAME.search(name))


@lru_cache(maxsize=4096)
def is_secret_variable(name: str) -> bool:
    """Return whether an environment variable has the name of a secret: `PGPASSWORD`, `SLACK_WEBHOOK_URL`.

    One word of the name is enough, because only its value is at stake: a log hides it, and jobs and servers do not get it.
    """
    if _ORDINARY_NAME.search(name.upper()):
        return False
    words = [word.upper() for word in _WORD.findall(name.replace("CONNECTION_STRING", "CONNSTR"))]
    return any(_SECRET_WORD.search(word) and word not in _ORDINARY_WORDS for word in words)


def read_secret(name: str) -> "SecretStr | None":
    """Return the secret in an environment variable, or None if it is not set or empty."""
    from pydantic import SecretStr  # takes 100 ms to import, and most commands do not need it

    value = os.environ.get(name)
    return SecretStr(value) if value else None


remove_logins = partial(_USERINFO.sub, "")
"""Removes `user:password@` from all URLs in a text."""


def remove_credentials(text: str) -> str:
    """Remove logins from all URLs in a text, and replace parameters that sign a request by `***`."""
    return _SIGNED.sub(rf"\1{HIDDEN}", remove_logins(text))


def redact(text: str) -> str:
    """Remove credentials from all URLs in a text, and replace private keys and secrets of the environment by `***`."""
    for value in _spellings():
        text = text.replace(value, HIDDEN)
    text = _PRIVATE_KEY.sub(HIDDEN, text) if "PRIVATE KEY" in text else text
    return remove_credentials(text) if "://" in text or "=" in text else text


def describe_secret(name: str, value: object) -> str | None:
    """Return why a config must not hold a key and its value, or None if they do not look like a secret."""
    remedy = "secrets belong in the environment (docs: SECURITY.md), and this one is now in a file: change it"
    if is_secret_name(name) and value not in (None, ""):
        return f"looks like a secret by its name; {remedy}"
    if not isinstance(value, str) or redact(value) == value:
        return None
    if _PRIVATE_KEY.search(value):
        return "holds a private key; write the path of its file, and make a new key, since this one is now in a config"
    what = "a URL with credentials" if remove_credentials(value) != value else "the value of a secret variable"
    return f"holds {what}; {remedy}"


def _spellings() -> list[str]:
    """Return each secret as it is and as encoded in URLs, JSON and HTTP Basic authentication; the longest first."""
    return _spell(
        tuple(os.environb.items())
    )  # bytes, since decoding all of them for each text takes longer than the rest


@lru_cache(maxsize=8)
def _spell(environment: tuple[tuple[bytes, bytes], ...]) -> list[str]:
    variables = [(os.fsdecode(name), os.fsdecode(value)) for name, value in environment]
    named = [value for name, value in variables if is_secret_variable(name)]
    passwords = [found[1] for _, value in variables if (found := _PASSWORD.search(value))]
    values = {value.strip() for value in (*named, *passwords, *map(unquote, passwords))}
    spelled: set[str] = set()
    for value in values:
        if len(value) >= SHORTEST:
            spelled |= {value, quote(value, safe=""), json.dumps(value)[1:-1], _base64(value)}
    if password := dict(variables).get("MLFLOW_TRACKING_PASSWORD"):
        spelled.add(_base64(f"{dict(variables).get('MLFLOW_TRACKING_USERNAME', '')}:{password}"))
    return sorted(spelled, key=lambda value: (-len(value), value))


def _base64(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "surrogateescape")).decode()


# Errors ---------------------------------------------------------------------------------------------------------------


def scrub(error: BaseException) -> BaseException:
    """Redact the texts of an error, its causes and its members; return a RuntimeError if its text cannot be changed."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        current = todo.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        todo += [current.__cause__, current.__context__, *getattr(current, "exceptions", ())]
        if _leaks(current):
            _redact_fields(current)
        if _leaks(current):  # its text is not made of its fields, as pydantic's
            return RuntimeError(f"{type(current).__name__}: {redact(str(current))}")
    return error


def _leaks(error: BaseException) -> bool:
    texts = (str(error), repr(error), *getattr(error, "__notes__", ()))
    return any(redact(text) != text for text in texts)


def _redact_fields(error: BaseException) -> None:
    error.args = tuple(_redacted(value) for value in error.args)
    for name, value in list(vars(error).items()):
        if not name.startswith("__") or name == "__notes__":
            setattr(error, name, _redacted(value))
    if isinstance(error, OSError):  # its text is made of these, not of its arguments
        for name in ("strerror", "filename", "filename2"):
            if isinstance(value := getattr(error, name), str | bytes):
                setattr(error, name, _redacted(value))


def _redacted(value: object) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, bytes):
        return redact(value.decode("latin-1")).encode("latin-1", "replace")
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(_redacted(item) for item in value)
    if type(value) is dict:
        return {key: _redacted(item) for key, item in value.items()}
    if isinstance(value, BaseException):  # requests and urllib3 wrap errors like this
        return scrub(value)
    return value


@contextmanager
def scrub_errors() -> Iterator[None]:
    """Remove secrets from errors that are raised within, where other software records them."""
    try:
        yield
    except BaseException as error:
        clean = scrub(error)
        if clean is error:
            raise
        raise clean from None


# Log lines ------------------------------------------------------------------------------------------------------------


def escape_for_display(text: str) -> str:
    """Return text for a terminal or a log: secrets removed, control characters escaped, further lines indented."""
    return escape_controls(redact(text)).replace("\n", "\n    ")
