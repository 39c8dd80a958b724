"""Keep on disk arrays that take most of a second to build and depend only on this Python and the installed packages.

Every worker process needs them, and a short run spends most of its time on starting processes. They are stored beside the
compiled code (dataops.kernels.entry_files). If that folder is not writable, or another user can write to it, or a file is
damaged, they are built.
"""

import hashlib
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dataops.kernels.entry_files import caches, distrust

Tables = dict[str, NDArray]


def load_or_build(name: str, sources: tuple[Path | str, ...], build: Callable[[], Tables]) -> Tables:
    """Return the arrays of an earlier process, or build and keep them.

    Args:
        sources: code files and versions that determine the arrays. The version of this Python is always one.
    """
    identity = hashlib.sha256(platform.python_version().encode())
    for source in sources:
        identity.update(source.read_bytes() if isinstance(source, Path) else source.encode())
    try:
        folder = caches() / "tables" / f"{name}-{identity.hexdigest()[:16]}"
        trusted = distrust(folder.parent) is None
    except (OSError, RuntimeError):
        return build()
    with suppress(OSError, ValueError, EOFError):
        if trusted:
            return {path.stem: np.load(path, allow_pickle=False) for path in _whole(folder)}
    tables = build()
    with suppress(OSError):
        if trusted:
            _keep(tables, folder)
    return tables


def _whole(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("*.npy"))
    if not paths:
        raise FileNotFoundError(folder)
    return paths


def _keep(tables: Mapping[str, NDArray], folder: Path) -> None:
    """Write all arrays or none, since another process may write them at the same time."""
    folder.parent.parent.mkdir(parents=True, exist_ok=True)
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, table in tables.items():
            np.save(temporary / f"{name}.npy", table, allow_pickle=False)
        if folder.exists():  # damaged
            shutil.rmtree(folder, ignore_errors=True)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
