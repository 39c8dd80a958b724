"""Compiled inner loops: numba, loaded at the first call, with the compiled code kept on disk (dataops.kernels.code_cache).

The command and most workers call none of these functions, and numba takes most of a second to import.

The code and tables that take most of a second to build are kept for all checkouts, homes and
processes of this user. Compiled code is a pickle, and to load a pickle may run code that it names.
So the folder is used only if nobody but this user and root can write to it, to what is in it, or
exchange one of the folders above it.
"""

import hashlib
import logging
import os
import platform
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from types import FunctionType
from typing import Any, cast
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

_CONSTANTS = int | float | complex | str | bytes | bool | tuple | frozenset | np.generic | None
Tables = dict[str, NDArray]


def caches() -> Path:
    """Return this user's folder of what all homes and checkouts share: below `NUMBA_CACHE_DIR`, else below `~/.cache`.

    Raises: RuntimeError if the user has no home folder.
    """
    named = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    return (Path(named) if named else Path("~/.cache").expanduser()) / "pairmill"


def cache_folder() -> Path:
    """Return the folder of compiled code. Raises: RuntimeError if the user has no home folder."""
    return caches() / "kernels"


def distrust(folder: Path) -> str | None:
    """Return why a folder is not used, or None if it may be: it is missing, or only this user and root can change it."""
    with suppress(FileNotFoundError):
        path = folder.resolve(strict=True)
        state = path.stat()
        if reason := _distrust(state, stat.S_IWGRP | stat.S_IWOTH):
            return reason
        others = stat.S_IWGRP | stat.S_IWOTH if state.st_mode & 0o077 else 0  # whom mode 0700 lets nowhere
        with os.scandir(path) as entries:
            for entry in entries:
                if reason := _distrust(entry.stat(follow_symlinks=False), others):
                    return f"has {entry.name}, which {reason}"
        for above in path.parents:  # in a folder such as /tmp, others cannot rename what is not theirs
            state = above.stat()
            if reason := _distrust(state, 0 if state.st_mode & stat.S_ISVTX else stat.S_IWOTH):
                return f"is in {above}, which {reason}"
    return None


def _distrust(state: os.stat_result, others: int) -> str | None:
    if state.st_uid not in (os.geteuid(), 0):
        return f"belongs to another user (uid {state.st_uid})"
    if stat.S_ISLNK(state.st_mode):
        return "is a link"
    return "is writable by other users" if state.st_mode & others else None


def open_folder(folder: Path) -> bool:
    """Make a folder of mode 0700 where there is none, and return whether it may be used; log why it may not, once."""
    with suppress(OSError):
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    reason = distrust(folder) if folder.is_dir() else "cannot be made"
    if reason:
        _report(folder, reason)
    return reason is None


@cache
def _report(folder: Path, reason: str) -> None:
    logger.warning("%s %s: compiled code is not kept, so each process compiles it again", folder, reason)


def load_or_build(name: str, sources: Iterable[Path | str], build: Callable[[], Tables]) -> Tables:
    """Return the arrays of an earlier process, or build and keep them.

    Args:
        sources: code files and versions that determine the arrays. The version of this Python is always one.
    """
    identity = hashlib.sha256(platform.python_version().encode())
    for source in sources:
        identity.update(source.read_bytes() if isinstance(source, Path) else source.encode())
    try:
        path = caches() / "tables" / f"{name}-{identity.hexdigest()[:16]}.npz"
        if not open_folder(path.parent):
            return build()
    except (OSError, RuntimeError):
        return build()
    with suppress(OSError, ValueError, EOFError, BadZipFile), path.open("rb") as file:
        return dict(np.load(file, allow_pickle=False))  # a zip has a checksum of each array
    tables = build()
    with suppress(OSError):
        with path.with_suffix(f".{os.getpid()}").open("wb") as part:  # another process may write them at the same time
            np.savez(part, allow_pickle=False, **tables)
        Path(part.name).replace(path)
    return tables


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
        with suppress(OSError, RuntimeError):  # no home folder
            if open_folder(folder := cache_folder()):
                options = repr(sorted(self._options.items())).encode()
                add_cache(dispatcher, folder, [options, *_describe(self.py_func, set())])
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
