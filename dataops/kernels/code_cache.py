"""Keep the machine code of compiled functions on disk, for all checkouts, homes and processes of this user.

numba's own cache is part of the checkout, so a fresh clone compiles everything again. It misses a change of a function that
a compiled function calls in another file, it may mix up two versions if two processes write its index at the same time,
and a damaged file ends the process. Here each entry is one file, whose name is a digest of all that determines the code:
sources, constants, types of the arguments, processor and versions. So processors and versions of the code share a folder.
"""

import hashlib
import logging
import os
import pickle
import sys
from collections.abc import Iterable
from functools import cache
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from dataops.kernels.entry_files import cache_folder, read_entry, write_entry
from dataops.kernels.without_package import without_package

logger = logging.getLogger(__name__)

used: set[str] = set()
"""Names of the entries that this process has read or written."""


class CodeCache(_Cache):
    """The cache of one compiled function.

    Args:
        label: its name.
        description: all that determines its code, but the types of arguments, the versions and the processor.
    """

    def __init__(self, label: str, description: Iterable[bytes]):
        self._label, self._identity = label, _digest(_environment(), *description)

    @property
    def cache_path(self) -> Any:
        return str(cache_folder())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the code for these types of arguments, or None if there is none that can be loaded."""
        with without_package("scipy.linalg"):  # numba looks for it; no kernel calls it
            target_context.refresh()
        name = self._name(sig, target_context.codegen())
        if (data := read_entry(name)) is None:
            return None
        try:
            found = CompileResult._rebuild(target_context, *pickle.loads(data))
        except Exception as error:  # a pickle can fail in any way
            logger.warning("%s: cannot load %s (%r); it is compiled again", cache_folder(), name, error)
            return None
        used.add(name)
        return found

    def save_overload(self, sig: Any, data: CompileResult) -> None:
        """Write the code for these types of arguments, if another process can load it."""
        if data.library.has_dynamic_globals or not all(lifted.can_cache for lifted in data.lifted):
            return
        name = self._name(sig, data.codegen)
        if write_entry(name, dumps(data._reduce())):
            used.add(name)

    def enable(self) -> None: ...

    def disable(self) -> None: ...

    def flush(self) -> None: ...

    def _name(self, sig: Any, codegen: Any) -> str:
        return f"{self._label}-{_digest(self._identity, repr((sig, codegen.magic_tuple())).encode()).hex()[:32]}"


def _digest(*parts: bytes) -> bytes:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "little") + part)
    return whole.digest()


@cache
def _environment() -> bytes:
    """Return versions, and the variables that change what numba compiles."""
    settings = {k: v for k, v in os.environ.items() if k.startswith("NUMBA_") and k != "NUMBA_CACHE_DIR"}
    versions = (sys.implementation.cache_tag, numba.__version__, llvmlite.__version__, np.__version__)
    return repr((versions, sorted(settings.items()))).encode()
