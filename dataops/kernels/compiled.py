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


class Instruction:
    """A numba intrinsic, for instructions that Python cannot express; it is created at its first call in compiled code."""

    def __init__(self, define: Callable[..., Any]):
        self.__doc__ = define.__doc__
        self.define = cast(FunctionType, define)

    @cached_property
    def _numba_type_(self) -> Any:
        from numba.core.registry import cpu_target
        from numba.extending import intrinsic

        defined, typing = intrinsic(self.define), cast(Any, cpu_target.typing_context)
        typing.refresh()
        return typing.resolve_value_type(defined)

    def __call__(self, *_: Any) -> Any:
        raise TypeError("only compiled code can call an instruction")


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
        elif isinstance(value, Instruction):
            yield from _describe(value.define, seen)
        elif isinstance(value, np.ndarray):
            yield repr((name, value.dtype, value.shape)).encode() + value.tobytes()
        elif isinstance(value, _CONSTANTS):
            yield repr((name, value)).encode()


@Instruction
def load64(_typing, data, at):
    """`load64(data, at)` returns the eight bytes of an array from an index that need not be a multiple of eight."""
    from llvmlite import ir
    from numba import uint64

    def load(context, builder, signature, values):
        array = context.make_array(signature.args[0])(context, builder, values[0])
        place = builder.bitcast(builder.gep(array.data, [values[1]]), ir.IntType(64).as_pointer())
        return builder.load(place, align=1)

    return uint64(data, at), load


@Instruction
def store64(_typing, data, at, word):
    """`store64(data, at, word)` writes eight bytes to an array from an index that need not be a multiple of eight."""
    from llvmlite import ir
    from numba import types, uint64

    def store(context, builder, signature, values):
        array = context.make_array(signature.args[0])(context, builder, values[0])
        place = builder.bitcast(builder.gep(array.data, [values[1]]), ir.IntType(64).as_pointer())
        builder.store(values[2], place, align=1)
        return context.get_dummy_value()

    return types.void(data, at, uint64), store
