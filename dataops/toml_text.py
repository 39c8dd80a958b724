"""Parse TOML in bounded time and depth (configs, suites, takedown requests), and write its values."""

import json
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dataops.errors import ConfigError
from dataops.regular_files import read_text

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


class TomlRefused(tomllib.TOMLDecodeError):
    """A document that is valid, and not read."""

    def __init__(self, message: str):
        ValueError.__init__(self, message)  # from Python 3.14 on, its own takes a place in the document


def parse_toml(text: str) -> dict[str, Any]:
    """Parse a TOML document.

    Raises: tomllib.TOMLDecodeError, also for a text that is too long or nested too deeply, or has an integer of more than
        64 bits.
    """
    if len(text) > MAX_CHARS:
        raise TomlRefused(f"it has over {MAX_CHARS:,} characters")
    too_deep = f"it is nested over {MAX_DEPTH} levels deep"
    if _LONG_KEY.search(text):
        raise TomlRefused(too_deep)
    try:
        values = tomllib.loads(text.removeprefix("\ufeff"))
    except RecursionError:
        raise TomlRefused(too_deep) from None
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:  # Python limits the digits of an integer
        raise TomlRefused(_LONG_INTEGER) from None
    level: list[Any] = [values]
    for _ in range(MAX_DEPTH):
        inner = [part for value in level for part in (value.values() if isinstance(value, dict) else value)]
        if any(isinstance(value, int) and not -(1 << 63) <= value < 1 << 63 for value in inner):
            raise TomlRefused(_LONG_INTEGER)
        level = [value for value in inner if isinstance(value, dict | list)]
    if level:
        raise TomlRefused(too_deep)
    return values


def read_toml(path: Path) -> tuple[dict[str, Any], str]:
    """Return the values of a TOML file, and its text. Raises: ConfigError."""
    try:
        return parse_toml(text := read_text(path)), text
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error


def find_key_lines(text: str) -> dict[str, str]:
    """Return the line of each table and key of a valid TOML document, such as `line 1`, by dotted path.

    A key with a value of several lines has its first line. Of a table that is written in several
    places, the first counts. The elements of an array of tables have their index in their path:
    `rules.0.score`.
    """
    found: dict[str, str] = {}
    parsed = 0
    table: tuple[str, ...] = ()
    elements: dict[tuple[str, ...], int] = {}
    statement, start = "", 0
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):  # TOML has no other line ends
        if not statement:
            start = number
        statement += f"{line}\n"
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
            table = _enter(values, elements, is_element=statement.lstrip().startswith("[["))
            _add(found, table, start)
        else:
            for path in _paths(values):
                _add(found, (*table, *path), start)
        statement = ""
    return found


def _enter(values: dict[str, object], elements: dict[tuple[str, ...], int], *, is_element: bool) -> tuple[str, ...]:
    """Return the path of the table that a header opens, with the index of each array of tables on its way.

    Args:
        values: the header, parsed.
        elements: the number of elements so far of each array of tables, by its path.
        is_element: whether the header is in double brackets.
    """
    path: tuple[str, ...] = ()
    table: Any = values
    while table:
        ((name, inner),) = table.items()
        path = (*path, name)
        table = inner[0] if isinstance(inner, list) else inner
        if is_element and not table:
            elements[path] = elements.get(path, 0) + 1
        if path in elements:
            path = (*path, str(elements[path] - 1))
    return path


def _paths(value: object) -> Iterator[tuple[str, ...]]:
    """Yield the path of each table and key below a value, outer ones first; tables in an array have their index."""
    items = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    for name, child in items:
        if isinstance(value, dict) or isinstance(child, dict):
            yield (str(name),)
            yield from ((str(name), *path) for path in _paths(child))


def _add(found: dict[str, str], path: tuple[str, ...], line: int) -> None:
    for length in range(1, len(path) + 1):
        found.setdefault(".".join(path[:length]), f"line {line}")


def format_value(value: object) -> str:
    """Return a value as TOML on one line; None, which TOML does not have, is not allowed.

    Strings are basic ones, with the escapes of JSON: TOML has all of them. JSON leaves U+007F as it is, and TOML does not.
    """
    if isinstance(value, Mapping):
        inner = ", ".join(f"{format_key(str(key))} = {format_value(item)}" for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(format_value, value))}]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, bool | int | float | str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value)  # a date or a time


def format_key(name: str) -> str:
    """Return a key as TOML, in quotes if it needs them."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else format_value(name)
