"""Compiled inner loops: numba, with its results cached on disk where some place for them can be written to."""

from collections.abc import Callable
from typing import Any

import numba


def compiled(**options: Any) -> Callable[..., Any]:
    """`numba.njit` with a cache on disk, or without where there is no place for it."""

    def compile_(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # numba: no locator available
            return numba.njit(**options)(function)

    return compile_
