"""Entry of the `pairmill` command and of the Python API: both find the code beside this package, before any other code of
the same names.
"""

import atexit
import gc
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import TypeVar

Item = TypeVar("Item")

HERE = Path(__file__).resolve().parent
CODE = HERE / "app" if (HERE / "app").is_dir() else HERE.parent
"""Folder of flows, tasks, training, dataops, infra and plugins: in the wheel, or the root of a checkout."""
PACKAGES = ("flows", "infra", "tasks", "training", "dataops", "plugins")
"""Our top-level packages. Their names are short, as in any Prefect project, so a user's folder may have them too."""

_lock = threading.RLock()
_ours: dict[str, ModuleType] = {}
"""Our modules, while the process has others, or none, under their names."""


def main() -> None:
    """Run one command and exit with its code."""
    gc.set_threshold(50_000)  # imports make many objects and hardly any garbage: 0.3 s of a run that reuses all
    find_code()
    with _ending_at_once():
        from flows import cli

        cli.main()


@contextmanager
def _ending_at_once() -> Iterator[None]:
    """End the process, where the `with` exits it by a code, after all that libraries have registered for its end.

    Threads of libraries that still work while the interpreter ends abort the process: one of Arrow did once in 20 commands
    that had read a part (dataops/parquet.py).
    """
    code: str | int | None = None

    def leave() -> None:
        if isinstance(code, int):
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):  # nobody reads it, or it is closed
                    stream.flush()
            os._exit(code)

    atexit.register(leave)  # the first one is called last
    try:
        yield
    except SystemExit as error:
        code = error.code
        raise


def find_code() -> None:
    """Put the folder of the code first on the import path of this process."""
    if str(CODE) not in sys.path[:1]:
        sys.path.insert(0, str(CODE))


@contextmanager
def our_modules() -> Iterator[None]:
    """Import our packages inside the `with`; then the process has the modules, path and environment that it had before.

    So a notebook has `tasks` and `training` of its own beside pairmill. In a process of pairmill, nothing changes.
    """
    if is_loaded():
        yield
        return
    with _lock:
        theirs, path, environment = _take_modules(), [*sys.path], dict(os.environ)
        sys.modules.update(_ours)
        find_code()
        try:
            yield
        finally:
            _ours.update(_take_modules())
            sys.modules.update(theirs)
            sys.path[:] = path
            os.environ.clear()
            os.environ.update(environment)


def inside(items: Iterator[Item]) -> Iterator[Item]:
    """Yield the items of an iterator, each computed among our modules."""
    while True:
        with our_modules():
            try:
                item = next(items)
            except StopIteration:
                return
        yield item


def is_loaded() -> bool:
    """Return whether the modules under the names of our packages are ours: in a command, a job, or a test."""
    file = getattr(sys.modules.get("dataops"), "__file__", None)
    return file is not None and Path(file).resolve().parent.parent == CODE


def _take_modules() -> dict[str, ModuleType]:
    """Remove the modules under the names of our packages, and return them by name."""
    names = [name for name in sys.modules if name.partition(".")[0] in PACKAGES]
    return {name: sys.modules.pop(name) for name in names}
