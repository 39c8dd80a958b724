"""Compiled inner loops: numba, loaded at the first call, with the compiled code kept on disk (dataops.kernels.code_cache).

The command and most workers call none of these functions, and numba takes most of a second to import.
"""

from collections.abc import Callable, Iterator
from functools import cache, cached_property
from pathlib import Path
from types import FunctionType
from typing import Any, cast

import numpy as np

_CONSTANTS = int | float | complex | str | bytes | bool | tuple | frozenset | np.generic | None


class Compiled:
    """A function that numba compiles at its first call, from Python or from another compiled function."""

    def __init__(self, function: FunctionType, options: dict[str, Any]):
        self.py_func = function
        self.__doc__ = function.__doc__
        self._options = options

    @cached_property
    def dispatcher(self) -> Any:
        import numba

        from dataops.kernels.code_cache import add_cache  # imports numba

        dispatcher = cast(Any, numba.njit(**self._options)(self.py_func))
        add_cache(dispatcher, [repr(sorted(self._options.items())).encode(), *_describe(self.py_func, set())])
        return dispatcher

    @property
    def _numba_type_(self) -> Any:
        """Return numba's dispatcher: numba calls this for a type that it does not know (a compiled function)."""
        return self.dispatcher._numba_type_

    def __call__(self, *arguments: Any) -> Any:
        return self.dispatcher(*arguments)


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorate as `numba.njit` does, with a cache on disk if its folder is writable."""
    return lambda function: Compiled(cast(FunctionType, function), options)


@cache
def _source(path: str) -> bytes:
    return Path(path).read_bytes()


def _describe(function: FunctionType, seen: set[FunctionType]) -> Iterator[bytes]:
    """Yield what determines the code of a function: sources, and the constants that numba copies into the code.

    The functions that it calls are described as well, since their code becomes part of its own.
    """
    if function in seen:
        return
    seen.add(function)
    yield _source(function.__code__.co_filename)
    for name in sorted(set(function.__code__.co_names)):
        value = function.__globals__.get(name)
        if isinstance(value, Compiled):
            yield from _describe(value.py_func, seen)
        elif isinstance(value, np.ndarray):
            yield repr((name, value.dtype, value.shape)).encode() + value.tobytes()
        elif isinstance(value, _CONSTANTS):
            yield repr((name, value)).encode()
