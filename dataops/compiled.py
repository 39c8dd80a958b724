"""Compiled inner loops: numba, loaded at the first call, with its results cached on disk where there is a place for them.

The command and most workers call none of these functions, and numba takes most of a second to import.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any


class Compiled:
    """A function that numba compiles when it is called first, here or from another compiled function."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]):
        self.py_func = function
        self.__doc__ = function.__doc__
        self._options = options

    @cached_property
    def _dispatcher(self) -> Any:
        import numba

        try:
            return numba.njit(cache=True, **self._options)(self.py_func)
        except RuntimeError:  # numba: no locator available
            return numba.njit(**self._options)(self.py_func)

    @property
    def _numba_type_(self) -> Any:
        """Numba asks this of a value that it does not know: so one compiled function may call another."""
        return self._dispatcher._numba_type_

    def __call__(self, *arguments: Any) -> Any:
        return self._dispatcher(*arguments)


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """As `numba.njit`, with a cache on disk, or without where there is no place for it."""
    return lambda function: Compiled(function, options)


class _MultiplyAdd:
    """In compiled code `multiply_add(a, b, c)` is a * b + c, rounded once (IEEE 754's fusedMultiplyAdd)."""

    @cached_property
    def _numba_type_(self) -> Any:
        from numba import float64
        from numba.core.registry import cpu_target
        from numba.extending import intrinsic

        @intrinsic
        def fused(_, a, b, c):
            return float64(a, b, c), lambda _context, builder, _signature, values: builder.fma(*values)

        cpu_target.typing_context.refresh()
        return cpu_target.typing_context.resolve_value_type(fused)


multiply_add = _MultiplyAdd()
