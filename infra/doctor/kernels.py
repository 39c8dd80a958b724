"""Check that the functions of the stages are compiled, for `pairmill doctor`."""

import sys
from collections.abc import Callable

from dataops.home import CHECKOUT
from dataops.kernels.cache_folder import cache_folder, distrust
from infra.doctor.check import Check
from infra.kernels import is_compiled

REMEDY = f"cd {CHECKOUT} && {sys.executable} -m infra.kernels"


def check_kernels(compiled: Callable[[], bool] = is_compiled) -> Check:
    """Check that the functions of the stages are compiled for this code and processor; without that, the first run waits.

    Args:
        compiled: as infra.kernels.is_compiled.
    """
    try:
        folder = cache_folder()
    except RuntimeError:
        return _failed("this user has no home folder to keep compiled functions in", "set NUMBA_CACHE_DIR to a folder")
    if reason := distrust(folder):
        detail = f"{folder} {reason}, so each process compiles the functions of the stages"
        return _failed(detail, f"delete it, or set NUMBA_CACHE_DIR to another folder, then: {REMEDY}")
    if not compiled():
        return _failed(
            "the functions of the stages are not compiled for this code and processor; the first run waits", REMEDY
        )
    return Check("kernels", True, "warning", f"the functions are compiled for this processor in {folder}")


def _failed(detail: str, remedy: str) -> Check:
    return Check("kernels", False, "warning", detail, remedy)
