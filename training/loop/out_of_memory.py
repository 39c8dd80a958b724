"""The error for a batch that does not fit into memory."""

import re

import torch

from dataops.errors import ConfigError
from training import distributed
from training.config import TrainConfig

_OUT_OF_MEMORY = re.compile(r"out of memory|_STATUS_ALLOC_FAILED|DefaultCPUAllocator|bad_alloc", re.IGNORECASE)
"""Texts of the allocators of the device, of its libraries, and of the host."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocator, of the device or of the host, ran out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


def describe_out_of_memory(
    error: BaseException, config: TrainConfig, step: int, pairs: int, *, is_resnet: bool
) -> ConfigError:
    """Return the error to raise: the batch, and the settings of the config that lower its memory.

    Args:
        pairs: pairs of the step on this rank.
    """
    remedies = []
    if config.grad_cache is not None:
        remedies.append(f"lower grad_cache, now {min(config.grad_cache, pairs)}")
    elif not is_resnet:
        remedies.append(f"set grad_cache to less than {pairs}")
    if not config.grad_checkpointing and not is_resnet:
        remedies.append("set grad_checkpointing = true")
    if config.sharding == "none" and distributed.world_size() > 1 and not is_resnet:
        remedies.append('set sharding = "full"')
    if config.precision == "fp32":
        remedies.append('set precision = "bf16"')
    remedies.append(f"lower batch_size, now {config.batch_size}, which changes the result")
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return ConfigError(
        f"step {step}: memory does not hold the step of {pairs} pairs on rank {distributed.rank()} of "
        f"{distributed.world_size()} ({reason}): {', or '.join(remedies)}"
    )
