"""A card that is the CPU: the lines of CUDA run, in the order of a card's streams, and give the bits of the CPU.

It shows that these lines run and compute the same. It shows nothing of CUDA itself: no copy is asynchronous.
"""

from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

CARD = torch.device("cuda", 0)
CPU = torch.device("cpu")


class _OnCard(TorchFunctionMode):
    """Says that each tensor of this thread lies on the card, and places on the CPU what is sent there."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func == Tensor.device.__get__:
            return CARD
        args, kwargs = _to_cpu((args, kwargs or {}))
        kwargs.pop("pin_memory", None)
        return func(*args, **kwargs)


def _to_cpu(tree):
    return tree_map_only(torch.device, lambda _: CPU, tree)


class _Stream:
    """A stream or an event of a card that has no work left."""

    def wait_stream(self, other): ...
    def record(self): ...
    def synchronize(self): ...


@contextmanager
def pretended_card(monkeypatch):
    """Let torch see one card inside the `with`."""
    found = {
        "is_available": True,
        "device_count": 1,
        "set_device": None,
        "get_device_name": "NVIDIA H100 80GB HBM3",
        "max_memory_allocated": 10**9,
        "stream": nullcontext(),
    }
    found |= dict.fromkeys(("Stream", "current_stream", "Event"), _Stream())
    with monkeypatch.context() as changed, _OnCard():
        for name, value in found.items():
            changed.setattr(torch.cuda, name, lambda *_, value=value: value)
        # Other threads, which have no such mode, pin tensors and send them too.
        send = Tensor.to
        changed.setattr(Tensor, "to", lambda *args, **kwargs: send(*_to_cpu(args), **_to_cpu(kwargs)))
        changed.setattr(Tensor, "pin_memory", lambda tensor: tensor)
        changed.setattr(Tensor, "record_stream", lambda tensor, stream: None)
        # torch's CUDA build asks the driver for the stream of a card that it believes to be there.
        changed.setattr(torch.accelerator, "current_accelerator", lambda **_: None)
        yield
