"""Parse TOML in bounded time and depth: configs, suites and takedown requests."""

import re
import tomllib
from collections.abc import Iterator
from typing import Any

MAX_CHARS = 1 << 20
"""Maximum length of a text, in characters."""
_MAX_PARSED_CHARS = 8 * MAX_CHARS
"""Maximum length of all that `find_key_lines` parses: it parses a value of several lines more than once."""
MAX_DEPTH = 64
"""Maximum number of tables and arrays that are nested; nobody nests as deeply, and what reads the values recurses."""
_LONG_INTEGER = "it has an integer of over 64 bits"
_PART = r"""(?:(?<![\w-])[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
# tomllib takes time that is quadratic in the parts of a dotted key.
_LONG_KEY = re.compile(rf"{_PART}(?:[ \t]*+\.[ \t]*+(?:[\w-]++|\"[^\"\n]*+\"|'[^'\n]*+')){{{MAX_DEPTH}}}", re.ASCII)


def parse_toml(text: str) -> dict[str, Any]:
    """Parse a TOML document.

    Raises: tomllib.TOMLDecodeError, also for a text that is too long or nested too deeply, or has an integer of more than
        64 bits.
    """
    if len(text) > MAX_CHARS:
        raise tomllib.TOMLDecodeError(f"it has over {MAX_CHARS:,} characters")
    too_deep = f"it is nested over {MAX_DEPTH} levels deep"
    if _LONG_KEY.search(text):
        raise tomllib.TOMLDecodeError(too_deep)
    try:
        values = tomllib.loads(text)
    except RecursionError:
        raise tomllib.TOMLDecodeError(too_deep) from None
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:  # Python limits the digits of an integer
        raise tomllib.TOMLDecodeError(_LONG_INTEGER) from None
    level: list[Any] = [values]
    for _ in range(MAX_DEPTH):
        inner = [part for value in level for part in (value.values() if isinstance(value, dict) else value)]
        if any(isinstance(value, int) and not -(1 << 63) <= value < 1 << 63 for value in inner):
            raise tomllib.TOMLDecodeError(_LONG_INTEGER)
        level = [value for value in inner if isinstance(value, dict | list)]
    if level:
        raise tomllib.TOMLDecodeError(too_deep)
    return values


def find_key_lines(text: str) -> dict[str, int]:
    """Return the line, from 1, of each table and key of a valid TOML document, by dotted path.

    A key with a value of several lines has its first line. Of a table that is written in several places, the first counts.
    """
    found: dict[str, int] = {}
    parsed = 0
    table: tuple[str, ...] = ()
    statement, start = "", 0
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if not statement:
            start = number
        statement += line
        if not statement.strip():
            statement = ""
            continue
        if start != number and not line.split("#")[0].rstrip().endswith(("]", "}", '"""', "'''")):
            continue
        parsed += len(statement)
        if parsed > _MAX_PARSED_CHARS:
            break
        try:
            values = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:  # the value continues on the next line
            continue
        if statement.lstrip().startswith("["):
            table = max(_paths(values), key=len, default=())
            _add(found, table, start)
        else:
            for path in _paths(values):
                _add(found, (*table, *path), start)
        statement = ""
    return found


def _paths(value: Any) -> Iterator[tuple[str, ...]]:
    """Yield the path of each table and key below a value, outer ones first; those in arrays have no index."""
    for inner in value if isinstance(value, list) else [value]:
        if isinstance(inner, dict):
            for name, child in inner.items():
                yield (name,)
                yield from ((name, *path) for path in _paths(child))


def _add(found: dict[str, int], path: tuple[str, ...], line: int) -> None:
    for length in range(1, len(path) + 1):
        found.setdefault(".".join(path[:length]), line)
