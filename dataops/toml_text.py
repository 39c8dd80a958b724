"""Parse TOML in bounded time and depth: configs, suites and takedown requests."""

import re
import tomllib
from typing import Any

MAX_CHARS = 1 << 20
"""Maximum length of a text, in characters."""
MAX_DEPTH = 64
"""Maximum number of tables and arrays that are nested; nobody nests as deeply, and what reads the values recurses."""
_PART = r"""(?:(?<![\w-])[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
# tomllib takes time that is quadratic in the parts of a dotted key.
_LONG_KEY = re.compile(rf"{_PART}(?:[ \t]*+\.[ \t]*+(?:[\w-]++|\"[^\"\n]*+\"|'[^'\n]*+')){{{MAX_DEPTH}}}", re.ASCII)


def parse_toml(text: str) -> dict[str, Any]:
    """Parse a TOML document.

    Raises: tomllib.TOMLDecodeError, a ValueError, also for a text that is too long or nested too deeply.
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
    level: list[Any] = [values]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for value in level
            for inner in (value.values() if isinstance(value, dict) else value)
            if isinstance(inner, dict | list)
        ]
    if level:
        raise tomllib.TOMLDecodeError(too_deep)
    return values
