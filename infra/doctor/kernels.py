"""Check that the functions of the stages are compiled, for `pairmill doctor`."""

import sys
from collections.abc import Callable

from dataops.home import CHECKOUT
from dataops.kernels.entry_files import cache_folder, distrust
from infra.doctor.check import Check
from infra.kernels import count_missing

REMEDY = f"cd {CHECKOUT} && {sys.executable} -m infra.kernels"


def check_kernels(count: Callable[[], tuple[int, int] | None] = count_missing) -> Check:
    """Check that the functions of the stages are compiled for this code and processor; without that, the first run waits.

    Args:
        count: as infra.kernels.count_missing.
    """
    try:
        folder = cache_folder()
    except RuntimeError:
        return _failed("this user has no home folder to keep compiled functions in", "set NUMBA_CACHE_DIR to a folder")
    if reason := distrust(folder):
        detail = f"{folder} {reason}, so each process compiles the functions of the stages"
        return _failed(detail, f"delete it, or set NUMBA_CACHE_DIR to another folder, then: {REMEDY}")
    found = count()
    if found is None or found[1]:
        which = f"{found[1]} of {found[0]} functions" if found else "the functions"
        return _failed(
            f"{which} of the stages are not compiled for this code and processor; the first run waits", REMEDY
        )
    return Check("kernels", True, "warning", f"{found[0]} functions are compiled for this processor in {folder}")


def _failed(detail: str, remedy: str) -> Check:
    return Check("kernels", False, "warning", detail, remedy)
