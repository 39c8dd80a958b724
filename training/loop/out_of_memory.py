"""What to say where memory does not hold a batch: the size that does, found by trying."""

import gc
from collections.abc import Callable

import torch
from torch import nn
from torch.optim import Optimizer


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator, of the device or of the host, had no more."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def find_largest_batch(model: nn.Module, optimizer: Optimizer, pairs: int, attempt: Callable[[int], None]) -> int:
    """The greatest half, quarter, ... of `pairs` that goes through both towers and back; 0 where none does.

    What the optimizer has not allocated yet is held meanwhile, since its first step comes after the first backward pass.

    Args:
        attempt: puts so many pairs through the model and back; no other rank takes part.
    """
    while pairs > 1:
        pairs //= 2
        held = []
        try:
            model.zero_grad(set_to_none=True)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if not optimizer.state:
                held = [torch.empty_like(parameter) for parameter in model.parameters() for _ in range(2)]
            attempt(pairs)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return pairs
        finally:
            held.clear()
            model.zero_grad(set_to_none=True)
    return 0
