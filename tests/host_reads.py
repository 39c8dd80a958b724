"""Counters of what makes the host wait for the device: one for a CPU, where nothing waits, and one for a card."""

import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from dataops.home import CHECKOUT

_TRAINING = f"{CHECKOUT / 'training'}/"
READS = {"item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "__contains__", "equal"}
"""Methods of a tensor that read its values."""
COPIES = {"tensor", "as_tensor", "from_numpy", "frombuffer"}
"""Functions that make a tensor of values of the host: to bring it to a GPU waits too."""
SIZES = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount", "_local_scalar_dense"}
"""Operations whose result has a size that the host must read, and the read itself."""


def find_site():
    """Return file and line of the code of training/ that is running, or of its caller if there is none."""
    frame = first = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.startswith(_TRAINING):
        frame = frame.f_back
    frame = first if frame is None else frame
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


class _Methods(TorchFunctionMode):
    def __init__(self, found):
        self.found = found

    def __torch_function__(self, function, types, arguments=(), options=None):
        name = getattr(function, "__name__", "")
        if name in READS | COPIES:
            self.found.append(f"{find_site()} {name}")
        return function(*arguments, **(options or {}))


class _Operations(TorchDispatchMode):
    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function.overloadpacket.__name__
        masks = name in {"index", "index_put", "index_put_"} and any(
            index is not None and index.dtype == torch.bool for index in arguments[1]
        )
        repeats = name == "repeat_interleave" and (options or {}).get("output_size") is None
        if name in SIZES or masks or repeats:
            self.found.append(f"{find_site()} {name}")
        return function(*arguments, **(options or {}))


@contextmanager
def counting():
    """Collect the reads of this thread, which would wait on a card."""
    found = []
    with _Methods(found), _Operations(found):
        yield found


@contextmanager
def counting_on_card():
    """Collect the waits for the card that torch warns of."""
    found = []

    def collect(message, *_, **__):
        if "synchroniz" in str(message):
            found.append(find_site())

    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = collect
            yield found
    finally:
        torch.cuda.set_sync_debug_mode("default")
