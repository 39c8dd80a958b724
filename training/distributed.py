"""Ranks: what they exchange. With one process every function returns its input, so the trainer is written once."""

import os
from collections.abc import Iterable, Iterator
from itertools import islice, zip_longest
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

Item = TypeVar("Item")


def rank() -> int:
    """Return the number of this process among its ranks, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def join(device: torch.device) -> None:
    """Join the other ranks, if torchrun started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def leave() -> None:
    """Leave the other ranks."""
    if dist.is_initialized():
        dist.destroy_process_group()


def sum_over_ranks(values: list[float], device: torch.device) -> list[float]:
    """Sum each value over the ranks, in fp64."""
    if world_size() == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return tensor.tolist()


def gather_objects(value: Any) -> list[Any]:
    """Return the value of every rank, in the order of the ranks."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast_from_first(value: Any) -> Any:
    """Return rank 0's value on every rank."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values)
    return values[0]


def take_share(items: Iterable[Item]) -> Iterator[Item]:
    """Return this rank's items: every world_size-th one."""
    return islice(items, rank(), None, world_size())


def merge_shares(results: Iterable[Item]) -> Iterator[Item]:
    """Return the results of all ranks in the order of the whole, on every rank.

    Args:
        results: of the items of `take_share`, in order; several ranks exchange them as a whole, and need tensors on the
            CPU.
    """
    if world_size() == 1:
        yield from results
        return
    nothing = object()
    for turn in zip_longest(*gather_objects(list(results)), fillvalue=nothing):
        yield from (item for item in turn if item is not nothing)


def parallelize(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the model, wrapped in DistributedDataParallel where there are several ranks."""
    if world_size() == 1:
        return model
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


class _GatherRows(torch.autograd.Function):
    """All-gather of unequal row counts; the gradient of a row is the sum of its gradients on all ranks."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.first, ctx.count = sum(counts[: rank()]), counts[rank()]
        padded = F.pad(rows, (0, 0, 0, max(counts) - len(rows))).contiguous()
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        gradient = gradients[0].contiguous()
        dist.all_reduce(gradient)
        return gradient[ctx.first : ctx.first + ctx.count], None


def gather_rows(rows_BD: Tensor) -> tuple[Tensor, int]:
    """Gather the rows of all ranks in their order, with gradient; also return the index of this rank's first row.

    Args:
        rows_BD: B rows of width D; B may differ between ranks.
    """
    if world_size() == 1:
        return rows_BD, 0
    counts_tensor = torch.zeros(world_size(), dtype=torch.int64, device=rows_BD.device)
    counts_tensor[rank()] = len(rows_BD)
    dist.all_reduce(counts_tensor)
    counts = [int(count) for count in counts_tensor.tolist()]
    return _GatherRows.apply(rows_BD, counts), sum(counts[: rank()])  # pyright: ignore[reportReturnType]


class _SumOverRanks(torch.autograd.Function):
    """All-reduce by sum, whose gradient is an all-reduce by sum."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        gradient = gradients[0].clone()
        dist.all_reduce(gradient)
        return gradient


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by the statistics of all ranks' samples, on any device (torch's own needs CUDA)."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        if not self.training:
            return super().forward(input)
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        x = input.float()
        ones = torch.ones(1, device=x.device)
        values = x.numel() // x.shape[1]
        sums = _SumOverRanks.apply(torch.cat([x.sum((0, 2, 3)), ones * values]))
        assert isinstance(sums, Tensor)
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = x - mean[:, None, None]
        squares = _SumOverRanks.apply(centred.square().sum((0, 2, 3)))
        assert isinstance(squares, Tensor)
        variance = squares / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(squares / (count - 1), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)


def synchronize_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Make batch normalisation see the batch of all ranks; the names of parameters stay."""
    if world_size() == 1:
        return model
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = GlobalBatchNorm2d
    return model
