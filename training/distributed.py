"""Ranks: what they exchange. With one process every function returns its input, so the trainer is written once."""

import io
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import FileStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from dataops.errors import ConfigError, ContractError, PairmillError, StorageError
from training.rendezvous import GUARDED, MEETING_FILE, explain_refusal, is_loopback

Item = TypeVar("Item")
WAIT_SECONDS = 20.0
"""Time between two exchanges of ranks that wait for one, whose work may take longer than TIMEOUT."""
ERRORS: dict[int, type[PairmillError]] = {
    error.exit_code: error for error in (PairmillError, ConfigError, ContractError, StorageError)
}

TIMEOUT = timedelta(minutes=30)
"""Time that a rank waits for the others on the host, for example for a checkpoint that rank 0 writes to a slow disk."""
GPU_TIMEOUTS = {"start": timedelta(minutes=5), "step": timedelta(minutes=2)}
"""The same for exchanges between GPUs, which begin when the ranks have agreed on a step: up to the end of the first one,
which compiles and connects, and later. Source: torchtitan, comm.init_timeout_seconds and comm.train_timeout_seconds."""
SENT_BYTES = 1 << 26
"""Bytes of a file that are sent at a time."""
TRACED_EXCHANGES = 2000
"""Exchanges between GPUs that a rank writes into its flight record when one did not end in time."""


def rank() -> int:
    """Return the number of this process among its ranks, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """Return the number of this process among the ranks of its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", rank())) if dist.is_initialized() else 0


def local_world_size() -> int:
    """Return the number of ranks of this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size())) if dist.is_initialized() else 1


def is_first_of_machine() -> bool:
    """Return whether this process is the first one of its machine."""
    return local_rank() == 0


def join(device: torch.device, *, allow_network: bool = False, records: Path | None = None) -> None:
    """Join the other ranks, if there are several: of this machine over loopback, of several at MASTER_ADDR.

    Args:
        records: folder for flight records, `rank-N`, of ranks whose exchange between GPUs did not end in time.
        allow_network: let ranks meet where other machines reach the store.

    Raises: ConfigError if they would meet there, or torchrun started this rank by itself, whose store listens there.
    """
    world_size, meeting_file = int(os.environ.get("WORLD_SIZE", "1")), os.environ.get(MEETING_FILE)
    host = os.environ.get("MASTER_ADDR", "")
    is_local = meeting_file is not None or is_loopback(host)
    if "TORCHELASTIC_RUN_ID" in os.environ and GUARDED not in os.environ and not allow_network:
        remedy = "start N ranks on this machine by `python -m training.launch N -m MODULE JOB.json`, not by torchrun"
        raise ConfigError(f"{remedy}; {explain_refusal('torchrun listens on all interfaces')}")
    if world_size == 1:
        return
    if not is_local and not allow_network:
        raise ConfigError(explain_refusal(f"MASTER_ADDR is {host or 'not set'}"))
    # What the ranks exchange on the host goes through gloo, which does not wait for the GPU.
    options: dict[str, Any] = {"backend": "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", "timeout": TIMEOUT}
    if device.type == "cuda":
        options["device_id"] = device
        _record_exchanges(records)
    if not is_local:
        dist.init_process_group(**options)
        limit_gpu_waits(device, "start")
        return
    # Else the ranks listen for each other at the address of the host's name.
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = _loopback_interface()
    rank = int(os.environ["RANK"])
    if meeting_file is not None:
        store = FileStore(meeting_file, world_size)
    else:
        port = int(os.environ["MASTER_PORT"])
        store = open_loopback_store(host, port, world_size=world_size, is_master=rank == 0)
    store.set_timeout(TIMEOUT)
    dist.init_process_group(store=store, rank=rank, world_size=world_size, **options)
    limit_gpu_waits(device, "start")


def _record_exchanges(folder: Path | None) -> None:
    """Let NCCL record its last exchanges, and write that when one does not end; torch before 2.9 has other names."""
    names = ("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE")
    values = dict.fromkeys(names, str(TRACED_EXCHANGES)) | {"TORCH_NCCL_DUMP_ON_TIMEOUT": "1"}
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        values |= dict.fromkeys(("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE"), str(folder / "rank-"))
    for name, value in values.items():
        os.environ.setdefault(name, value)


def limit_gpu_waits(device: torch.device, phase: str) -> None:
    """Set the time after which an exchange between GPUs counts as failed, in all groups of ranks: see GPU_TIMEOUTS."""
    if device.type == "cuda" and dist.is_initialized():
        for group in dist.distributed_c10d._world.pg_map:
            group._get_backend(device)._set_default_timeout(GPU_TIMEOUTS[phase])


def _loopback_interface() -> str:
    """Return the name of the loopback interface: lo, on macOS lo0."""
    return next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), "lo")


def open_loopback_store(host: str, port: int, *, is_master: bool = False, **options: Any) -> TCPStore:
    """Open a store at an address of loopback; as its master, listen there and not, as torch does, on all interfaces.

    Raises: RuntimeError if the port is taken, as TCPStore does.
    """
    assert is_loopback(host)
    if is_master:
        try:
            options["master_listen_fd"] = socket.create_server((host, port)).detach()  # noqa: TID251  listens at an address of loopback
        except OSError as error:
            raise RuntimeError(f"cannot listen at {host}:{port}: {error.strerror}") from error
    return TCPStore(host, port, is_master=is_master, **options)


def leave() -> None:
    """Leave the other ranks."""
    if dist.is_initialized():
        dist.destroy_process_group()


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum each value over the ranks, in place; on a GPU the host does not wait for it."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def gather_integers(values: list[int]) -> list[list[int]]:
    """Return the values of every rank, in the order of the ranks; all have as many."""
    if world_size() == 1:
        return [values]
    received = [torch.empty(len(values), dtype=torch.int64) for _ in range(world_size())]
    dist.all_gather(received, torch.tensor(values))
    return [of_rank.tolist() for of_rank in received]


def gather_objects(value: object) -> list[Any]:
    """Return the value of every rank, in the order of the ranks.

    Args:
        value: made of tensors on the CPU, numbers, text, None, lists, tuples and dictionaries.
    """
    if world_size() == 1:
        return [value]
    sent_N = _encode(value)
    sizes = [size for (size,) in gather_integers([len(sent_N)])]
    received = [torch.empty(max(sizes), dtype=torch.uint8) for _ in sizes]
    dist.all_gather(received, F.pad(sent_N, (0, max(sizes) - len(sent_N))))
    return [_decode(bytes_N[:size]) for bytes_N, size in zip(received, sizes, strict=True)]


def broadcast_from_first(value: object) -> Any:
    """Return rank 0's value on every rank; for its type, see `gather_objects`."""
    if world_size() == 1:
        return value
    sent_N = _encode(value if rank() == 0 else None)
    size = torch.tensor([len(sent_N)])
    dist.broadcast(size, 0)
    if rank() != 0:
        sent_N = torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(sent_N, 0)
    return _decode(sent_N)


def send_files(files: Mapping[Path, tuple[int, Sequence[int]]]) -> None:
    """Write files to the machines that lack them; all ranks together.

    They go from rank to rank. For a new group of some ranks, be it one for the host, torch lets the others split the
    communicator of the GPUs, which takes all ranks, so that they would wait in vain. Source: torch's
    distributed_c10d.py, _new_process_group_helper.

    Args:
        files: for each file the rank that has it, and the first rank of each machine that lacks it, or has another content.
    """
    for path, (source, targets) in files.items():
        if rank() not in (source, *targets):
            continue
        size = torch.tensor([path.stat().st_size if rank() == source else 0])
        _send(size, source, targets)
        part = path if rank() == source else path.with_name(f".{path.name}.part")
        opened: Any = part.open("rb" if rank() == source else "wb")
        with opened as file:
            for start in range(0, int(size), SENT_BYTES):
                sent_N = torch.empty(min(SENT_BYTES, int(size) - start), dtype=torch.uint8)
                if rank() == source:
                    file.readinto(sent_N.numpy())
                _send(sent_N, source, targets)
                if rank() != source:
                    file.write(sent_N.numpy())
        part.rename(path)
    gather_integers([0])


def _send(tensor: Tensor, source: int, targets: Sequence[int]) -> None:
    """Copy a tensor from one rank to others; these alone together."""
    for target in targets if rank() == source else ():
        dist.send(tensor, target)
    if rank() != source:
        dist.recv(tensor, source)


def run_together(work: Callable[[], Item] | None, wait_seconds: float = WAIT_SECONDS) -> Item | None:
    """Run this rank's work and return its result when the work of all ranks is done, however long that takes.

    A collective ends with an error after TIMEOUT, so the ranks exchange who is done. A deliberate
    error of one rank is raised on all of them. After any other, that rank ends, and the others lose
    the connection to it.

    Args:
        work: None: this rank only waits. With several ranks it runs in a thread, so that a signal ends the wait.
        wait_seconds: time between two exchanges.
    """
    if world_size() == 1:
        return None if work is None else work()
    results: list[Item] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            if work is not None:
                results.append(work())
        except BaseException as error:  # raised below
            errors.append(error)

    thread = threading.Thread(target=run, name="work", daemon=True)
    thread.start()
    while True:
        thread.join(wait_seconds)
        works = thread.is_alive()
        error = errors[0] if errors and not works else None
        state = "works" if works else "failed" if error else "done"
        exit_code = error.exit_code if isinstance(error, PairmillError) else None
        states = gather_objects([state, exit_code, str(error)])
        if error is not None:
            raise error
        for _, code, message in states:
            if code is not None:
                raise ERRORS.get(code, PairmillError)(message)
        if all(name == "done" for name, _, _ in states):
            return results[0] if results else None


def run_on_first(work: Callable[[], Item]) -> Item:
    """Return the result of work that rank 0 does, on every rank; for its type, see `gather_objects`."""
    return broadcast_from_first(run_together(work if rank() == 0 else None))


def _encode(value: object) -> Tensor:
    """Return a value as bytes.

    torch.distributed's own exchange of objects unpickles what arrives, and no rank can be sure who
    sent it.
    """
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)


def _decode(bytes_N: Tensor) -> Any:
    return torch.load(io.BytesIO(bytes_N.numpy().tobytes()), weights_only=True)  # noqa: TID251  weights_only=True


def take_share(items: Iterable[Item]) -> Iterator[Item]:
    """Return this rank's items: every world_size-th one."""
    return islice(items, rank(), None, world_size())


def merge_shares(results: Iterable[Item]) -> Iterator[Item]:
    """Return the results of all ranks in the order of the whole, on every rank.

    Args:
        results: of the items of `take_share`, in order; several ranks exchange them as a whole, as `gather_objects`
            does.
    """
    if world_size() == 1:
        yield from results
        return
    nothing = object()
    for turn in zip_longest(*gather_objects(list(results)), fillvalue=nothing):
        yield from (item for item in turn if item is not nothing)


def parallelize(model: nn.Module, device: torch.device, *, static_graph: bool = False) -> nn.Module:
    """Return the model, wrapped in DistributedDataParallel where there are several ranks.

    Args:
        static_graph: each step passes through the model once, and uses the same parameters.
    """
    if world_size() == 1:
        return model
    device_ids = [device] if device.type == "cuda" else None
    return DistributedDataParallel(
        model, device_ids=device_ids, gradient_as_bucket_view=True, static_graph=static_graph
    )


class _GatherRows(torch.autograd.Function):
    """All-gather of unequal row counts; the gradient of a row is the sum of its gradients on all ranks."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.counts = counts
        padded = F.pad(rows, (0, 0, 0, max(counts) - len(rows))).contiguous()
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        largest = max(ctx.counts)
        sent = [F.pad(part, (0, 0, 0, largest - len(part))).contiguous() for part in gradients[0].split(ctx.counts)]
        received = torch.empty_like(sent[0])
        dist.reduce_scatter(received, sent)
        return received[: ctx.counts[rank()]], None


def gather_rows(rows_BD: Tensor, counts: Sequence[int] | None = None) -> tuple[Tensor, int]:
    """Gather the rows of all ranks in their order, with gradient; also return the index of this rank's first row.

    Args:
        rows_BD: B rows of width D; B may differ between ranks.
        counts: rows of each rank; None: the ranks exchange them.
    """
    if world_size() == 1:
        return rows_BD, 0
    counts = [count for (count,) in gather_integers([len(rows_BD)])] if counts is None else list(counts)
    return _GatherRows.apply(rows_BD, counts), sum(counts[: rank()])  # pyright: ignore[reportReturnType]


class _SumOverRanks(torch.autograd.Function):
    """All-reduce by sum, whose gradient is an all-reduce by sum."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone()
        dist.all_reduce(gradient)
        return gradient


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by the statistics of all ranks' samples. In torch's own the host waits in each layer."""

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


def synchronize_batch_norm(model: nn.Module) -> None:
    """Make batch normalisation see the batch of all ranks; the names of parameters stay."""
    for module in model.modules() if world_size() > 1 else ():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = GlobalBatchNorm2d
