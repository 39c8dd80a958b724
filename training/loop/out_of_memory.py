"""The error for a batch that does not fit into memory: it names the batch size that fits, found by trying."""

import gc
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dataops.errors import ConfigError
from training import distributed
from training.loop.training_run import TrainingRun


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocator, of the device or of the host, ran out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def find_largest_batch(model: nn.Module, optimizer: Optimizer, pairs: int, attempt: Callable[[int], None]) -> int:
    """Return the largest half, quarter, ... of `pairs` that passes through both towers and back; 0 if none does.

    Memory that the optimizer allocates in its first step, after the first backward pass, is held meanwhile.

    Args:
        attempt: passes so many pairs through the model and back; no other rank takes part.
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


def describe_out_of_memory(run: TrainingRun, tokens_BL: Tensor, error: BaseException) -> ConfigError:
    """Return the error to raise, after trying smaller batches on this rank.

    Args:
        tokens_BL: the captions of the batch that did not fit.
    """
    pairs, side = len(tokens_BL), run.preprocess.image_size

    def attempt(count: int) -> None:
        images_B3SS = torch.zeros(count, side, side, 3, device=run.device).permute(0, 3, 1, 2)
        with torch.autocast(run.device.type, torch.bfloat16, enabled=run.config.precision == "bf16"):
            features = run.model(images_B3SS, tokens_BL[:count].to(run.device))
        (features[0].sum() + features[1].sum()).backward()

    fits = find_largest_batch(run.model, run.optimizer, pairs, attempt)
    ranks = distributed.world_size()
    remedy = f"{fits} fit: set batch_size = {fits * ranks}" if fits else "not even one fits: take a smaller model"
    reason = str(error).splitlines()[0]
    return ConfigError(f"step {run.step}: memory does not hold {pairs} pairs a rank ({reason}); {remedy}")
