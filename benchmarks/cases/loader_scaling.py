"""Measure what an image costs our loader, part by part, and how threads and processes share that work.

    python -m benchmarks.cases.loader_scaling [--quick] [--json] [--workers 1 --workers 2 ...]

The shards and the crops are those of benchmarks/loader.py, at 224 pixels, with CLIP's tokens. `parts` are microseconds of
CPU time an image in the fastest batch, on one thread: reading, decoding, scaling the crop to the model's size, tokenizing,
packing the tokens, and the rest, which is Python and the clocks of this measurement. The libraries release the lock of
the interpreter in their parts, so `python_limit`, the inverse of the rest, is about what one process can load at most,
whatever the number of its cores.

`threads N` is the loader with N threads. `processes N` are N processes with one thread each, which load every N-th batch
and write its pixels into memory that they share with this process; captions and tokens come through a pipe. Each reports
images/s (wall time) and the CPU time of all threads and processes an image. Both must load the same batches.
"""

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing import get_context, shared_memory
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_gates.loading import measure_parts
from benchmarks.loader import AREA, BATCH, write_shards
from benchmarks.measure import Row, finish, make_parser, require_peers
from training.config import TrainConfig
from training.data.loader import Batch, Dataset, load_batches
from training.data.sampling_plan import Plan
from training.model.packing import pack_chunks
from training.model.tokenizer import make_tokenizer

SIDE = 224
SLOTS = 3
"""Batches of a process that are loaded or in use at a time."""


def open_loader(folder: Path, workers: int, epochs: int, rank: int = 0, ranks: int = 1) -> Iterator[Batch]:
    """Yield the batches of one rank."""
    tokenizer = make_tokenizer("clip", (), 0, 77)
    config = TrainConfig(epochs=epochs, batch_size=BATCH * ranks, workers=workers, crop_area=AREA)
    dataset = Dataset(sorted(folder.glob("*.tar")), SIDE, 0, AREA)
    plan = Plan(len(dataset), config, 0)
    yield from load_batches(dataset, plan, 1, rank, ranks, tokenizer, lambda batch: pack_chunks(batch.tokens_BL, None))
    dataset.close()


def measure_threads(folder: Path, workers: int, epochs: int) -> dict[str, Any]:
    """Load all epochs with threads."""
    return _measure(open_loader(folder, workers, epochs))


def measure_processes(folder: Path, workers: int, epochs: int) -> dict[str, Any]:
    """Load all epochs with processes that share memory with this one."""
    context, size = get_context("fork"), BATCH * SIDE * SIDE * 3
    memory = [shared_memory.SharedMemory(create=True, size=SLOTS * size) for _ in range(workers)]
    pipes = [context.Pipe() for _ in range(workers)]
    processes = [
        context.Process(target=_serve, args=(folder, epochs, rank, workers, memory[rank], pipes[rank][1]))
        for rank in range(workers)
    ]

    def receive() -> Iterator[Batch]:
        for process in processes:
            process.start()
        left = list(range(workers))
        while left:
            for rank in list(left):
                message = pipes[rank][0].recv()
                if message is None:
                    left.remove(rank)
                    continue
                slot, shape, captions, tokens = message
                pixels = np.ndarray(shape, np.uint8, memory[rank].buf, slot * size)
                yield Batch(0, 0, np.empty(0), pixels, captions, [], torch.from_numpy(tokens))
                pipes[rank][0].send(slot)
        for process in processes:
            process.join()

    try:
        return _measure(receive())
    finally:
        for one in memory:
            one.close()
            one.unlink()


def _serve(folder: Path, epochs: int, rank: int, ranks: int, memory: Any, pipe: Any) -> None:
    size, free = BATCH * SIDE * SIDE * 3, list(range(SLOTS))
    for batch in open_loader(folder, 0, epochs, rank, ranks):
        slot = free.pop() if free else pipe.recv()
        target = np.ndarray(batch.pixels_BSS3.shape, np.uint8, memory.buf, slot * size)
        target[:] = batch.pixels_BSS3
        pipe.send((slot, target.shape, batch.captions, batch.tokens_BL.numpy()))  # pyright: ignore[reportOptionalMemberAccess]
        del target
    pipe.send(None)


def _measure(batches: Iterator[Batch]) -> dict[str, Any]:
    images, digests, clock, wall = 0, [], _cpu(), time.perf_counter()
    hashing = 0.0
    for batch in batches:
        images += len(batch.captions)
        started = time.thread_time()
        digests += [hashlib.blake2b(pixels.tobytes(), digest_size=8).digest() for pixels in batch.pixels_BSS3]
        hashing += time.thread_time() - started
    seconds = time.perf_counter() - wall
    return {
        "images_per_second": round(images / seconds),
        "cpu_microseconds": round(1e6 * (_cpu() - clock - hashing) / images, 1),
        "digest": hashlib.blake2b(b"".join(sorted(digests))).hexdigest(),
    }


def _cpu() -> float:
    return sum(os.times()[:4])


def main() -> int:
    """Run the benchmark."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("--workers", type=int, action="append", help="threads or processes; 1, 2, 4 ... by default")
    options = parser.parse_args()
    require_peers("sklearn")
    torch.set_num_threads(1)
    cores = len(os.sched_getaffinity(0))
    numbers = options.workers or [n for n in (1, 2, 4, 8, 16) if n <= cores]
    count, epochs = (640, 1) if options.quick else (1280, 3)
    with tempfile.TemporaryDirectory(prefix="pairmill-loader-") as name:
        folder = Path(name)
        write_shards(folder, count)
        parts = measure_parts(open_loader(folder, 0, epochs), sys.modules[__name__])
        found = {n: (measure_threads(folder, n, epochs), measure_processes(folder, n, epochs)) for n in numbers}
    rows = [
        Row(f"loader threads {n}", t["images_per_second"], p["images_per_second"], "processes", "images/s", None)
        for n, (t, p) in found.items()
    ]
    details = {
        "parts": parts,
        "python_limit": round(1e6 / parts["python"]),
        "workers": {str(n): {"threads": t, "processes": p} for n, (t, p) in found.items()},
    }
    equal = len({one.pop("digest") for both in found.values() for one in both}) == 1
    packages = ("numpy", "simplejpeg", "opencv-python-headless", "tokenizers")
    return finish("loader_scaling", rows, packages, equal=equal, as_json=options.json, details={"details": details})


if __name__ == "__main__":
    sys.exit(main())
