"""Import modules without an optional package that they would load and not need: it is a good part of a worker's start."""

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Blocker:
    """A finder that makes one thread's imports of a package fail, as they do where it is not installed."""

    def __init__(self, name: str):
        self._name, self._thread = name, threading.get_ident()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == self._name and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"{name} is not loaded here, since nothing needs it", name=name)
        return None


@contextmanager
def without_package(name: str) -> Iterator[None]:
    """Make imports of a package by this thread fail inside the `with`, unless the package is loaded."""
    blocker = _Blocker(name)
    sys.meta_path.insert(0, blocker)
    try:
        yield
    finally:
        sys.meta_path.remove(blocker)


def skip_pandas() -> None:
    """Make pyarrow remember that pandas is not there: each `pa.array` of a list would load it, to look for its types.

    `to_pandas` still works: it looks again.
    """
    import pyarrow

    with without_package("pandas"), suppress(ImportError):
        pyarrow.array([])
