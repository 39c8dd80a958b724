"""Keep the machine code of compiled functions in numba's cache, for all checkouts, homes and processes of this user.

By itself numba misses a change of a function that a compiled function calls in another file, may
mix up two versions if two processes write at the same time, and ends the process at a damaged file.
So here the name of a file has a digest of all sources and constants that determine the code, a lock
is held while files are written, and what cannot be loaded is compiled again.
"""

import hashlib
import logging
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator

from dataops.kernels.without_package import without_package

logger = logging.getLogger(__name__)


class _Locator(_CacheLocator):
    """Places the code of all functions in one folder, under names that state what determines it."""

    def __init__(self, folder: Path, digest: str):
        self._folder, self._digest = folder, digest

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> "_Locator":
        return cls(py_func.folder, py_func.digest)

    def ensure_cache_path(self) -> None: ...

    def get_cache_path(self) -> Any:
        return str(self._folder)

    def get_source_stamp(self) -> Any:
        return self._digest

    def get_disambiguator(self) -> Any:
        return self._digest[:32]


class _Impl(CompileResultCacheImpl):
    _locator_classes = (_Locator,)


class CodeCache(FunctionCache):
    """numba's cache of one function."""

    _impl_class = _Impl

    def load_overload(self, sig: object, target_context: Any) -> object:
        """Return the code for these types of arguments, or None if there is none that can be loaded."""
        with without_package("scipy.linalg"):  # numba looks for it; no kernel calls it
            target_context.refresh()
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # a pickle can fail in any way
            logger.warning("cannot load %s (%r); it is compiled again", self._name, error)
            return None

    def save_overload(self, sig: object, data: object) -> None:
        """Write the code for these types of arguments, if the folder allows it."""
        with suppress(OSError), FileLock(Path(self.cache_path, ".lock")):
            try:
                super().save_overload(sig, data)
            except OSError:
                raise
            except Exception:  # the index is damaged
                self.flush()
                super().save_overload(sig, data)


def add_cache(dispatcher: Any, folder: Path, description: Iterable[bytes]) -> None:
    """Keep the code of a function on disk.

    Args:
        folder: one that only this user and root can change.
        description: all that determines its code, but the types of arguments, the versions and the processor.
    """
    dispatcher.py_func.folder = folder
    dispatcher.py_func.digest = hashlib.sha256(b"\0".join(description)).hexdigest()
    dispatcher._cache = CodeCache(dispatcher.py_func)
