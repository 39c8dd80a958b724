"""Measure what the data of a training job costs at its start, of many synthetic samples: the first and a resumed one.

    python -m benchmarks.cases.train_start [--quick] [--json] [--samples N] [--ranks N]

Each shard has 10,000 samples and consists of what a job reads at its start: an index and a Parquet file of rows, as
pack writes them. All shards are links to the same two files, and the tars are not there: a job with `shard_cache_bytes`
gets them later. Ranks are processes that meet as those of a job do. Each calls the functions that a job calls, up to
the first samples of a step in the middle of the first epoch. The vocabulary is not learnt. The memory of a rank is what
it has more than before the start and does not share with other processes. It includes the blocks of the order.

The peer is an index of its own for each rank at each start, as version 4 of the train stage had it before 2026-11-27:
a list of keys, arrays of offsets and an order of all samples. It is measured on fewer samples, since its cost is linear
in them. Both must give the same samples.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from array import array
from itertools import chain
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measure import Row, finish, make_parser
from dataops.regular_files import read_text
from dataops.shards.tar import read_index

SHARD_SAMPLES, IMAGE_BYTES, BATCH = 10_000, 30_000, 32_768
PEER = "an index for each rank"
CHECKED = 8
"""Samples of each rank's share that must be equal."""


def write_shards(folder: Path, shards: int) -> None:
    """Write the index and the rows of one shard, and link those of the others to them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    size = IMAGE_BYTES + 3 * 512 + 1024
    lines, keys = [f"v1.2 {SHARD_SAMPLES}"], [f"{number:09d}" for number in range(SHARD_SAMPLES)]
    for number, key in enumerate(keys):
        image = number * size + 512
        caption = image + IMAGE_BYTES + 512
        lines.append(
            f"jpg {image} {IMAGE_BYTES} {key}.jpg txt {caption} 60 {key}.txt json {caption + 1024} 400 {key}.json"
        )
    (folder / "first.idx").write_text("\n".join(lines) + "\n")
    uids = [f"{number:032x}" for number in range(SHARD_SAMPLES)]
    none = pa.nulls(SHARD_SAMPLES, pa.float64())
    table = pa.table({"key": keys, "uid": uids, "caption": ["a caption"] * SHARD_SAMPLES, "sampling_probability": none})
    pq.write_table(table, folder / "first.parquet", compression="zstd")
    for shard in range(shards):
        (folder / f"{shard:06d}.idx").hardlink_to(folder / "first.idx")
        (folder / f"part-{shard:06d}.parquet").hardlink_to(folder / "first.parquet")


def write_job(folder: Path, shards: int, ranks: int) -> Path:
    """Write the job file."""
    names = [f"{shard:06d}.tar" for shard in range(shards)]
    job = {
        "train": {
            "epochs": 1, "batch_size": BATCH, "shuffle_shards": shards, "shard_cache_bytes": 10**15, "workers": 2,
            "vocabulary": "clip", "nproc": ranks, "device": "cpu",
        },
        "shards": [str(folder / name) for name in names],
        "checksums": dict.fromkeys(names, "0" * 64),
        "arriving": dict.fromkeys(names, SHARD_SAMPLES * (IMAGE_BYTES + 4096)),
        "output": str(folder / "job"),
    }  # fmt: skip
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    return path


def start_rank(job_file: Path) -> None:
    """Start as one rank of a job, and write seconds, bytes and some samples to a file beside the job's."""
    import torch

    from training import distributed, preparation
    from training.data.loader import Dataset
    from training.data.sampling_plan import Plan
    from training.job import Job

    job = Job.model_validate_json(job_file.read_bytes())
    distributed.join(torch.device("cpu"))
    rank, ranks, process = distributed.rank(), distributed.world_size(), psutil.Process()
    Plan(BATCH, job.train, 0).batch(1, rank, ranks)  # loads what every start loads
    distributed.gather_objects(rank)
    before, cpu, started = process.memory_full_info().uss, time.process_time(), time.perf_counter()
    preparation.check_shards(job)
    index = preparation.prepare_index(job)
    plan = preparation.prepare_plan(job, job.train, index)
    dataset = Dataset(list(job.shards), 224, 0, arriving=job.arriving, index=index)
    _, samples = plan.batch(plan.total_steps // 2, rank, ranks)
    spans = [[dataset.index.key(sample), *dataset.index.image_span(sample)] for sample in samples[:CHECKED].tolist()]
    found = {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        "bytes": process.memory_full_info().uss - before,
        "samples": len(index),
        "checked": [samples[:CHECKED].tolist(), spans],
    }
    job_file.with_name(f"rank-{rank}.json").write_text(json.dumps(found))
    distributed.gather_objects(rank)
    distributed.leave()


def measure_start(job: Path, ranks: int) -> dict[str, Any]:
    """Start a job; return the seconds, CPU seconds and bytes of the rank with the most."""
    launcher = ["-m", "training.launch", str(ranks)] if ranks > 1 else []
    command = [sys.executable, *launcher, "-m", "benchmarks.cases.train_start", "--rank", str(job)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    found = [json.loads((job.parent / f"rank-{rank}.json").read_text()) for rank in range(ranks)]
    return {
        "seconds": round(max(each["seconds"] for each in found), 2),
        "cpu_seconds": round(max(each["cpu_seconds"] for each in found), 2),
        "bytes_per_rank": max(each["bytes"] for each in found),
        "checked": [each["checked"] for each in found],
    }


def measure_peer(job: Path, shards: int) -> dict[str, Any]:
    """Build the index as each rank did, of some shards, and order its samples; return seconds and bytes a sample."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import xxhash

    from training.data.keyed_random import draw_permutation

    process = psutil.Process()
    paths = [Path(path) for path in json.loads(job.read_text())["shards"][:shards]]
    before, started = process.memory_full_info().uss, time.process_time()
    keys, spans = list[str](), array("q")
    probabilities, identities = array("d"), array("Q")
    for number, shard in enumerate(paths):
        index = shard.with_suffix(".idx")
        rows = pq.read_table(
            shard.with_name(f"part-{shard.stem}.parquet"), columns=["key", "uid", "sampling_probability"]
        )
        row_of = {row["key"]: row for row in rows.to_pylist()}
        members: dict[str, dict[str, tuple[int, int]]] = {}
        for member in chain.from_iterable(sample.values() for sample in read_index(read_text(index), str(index))):
            members.setdefault(member.key, {})[member.extension] = (member.offset, member.size)
        for key, found in members.items():
            keys.append(key)
            spans.extend((number, *found["jpg"], *found["txt"]))
            probabilities.append(
                1.0 if row_of[key]["sampling_probability"] is None else row_of[key]["sampling_probability"]
            )
            identities.append(xxhash.xxh3_64_intdigest(row_of[key]["uid"].encode()))
    order = draw_permutation(0, 0, len(keys))
    seconds = time.process_time() - started
    del rows, row_of, members
    pa.default_memory_pool().release_unused()
    size = process.memory_full_info().uss - before
    checked = order[:CHECKED].tolist()
    return {
        "cpu_seconds_per_sample": seconds / len(keys),
        "bytes_per_sample": round(size / len(keys), 1),
        "samples": len(keys),
        "checked": [checked, [[keys[sample], *spans[5 * sample + 1 : 5 * sample + 3]] for sample in checked]],
    }


def is_equal_to_peer(folder: Path, shards: int, peer: dict[str, Any]) -> bool:
    """Return whether the first samples of an epoch over the peer's shards are those of the peer."""
    from training.data.epoch_order import EpochOrder
    from training.data.sample_index import build_index, fingerprint_shards, open_index
    from training.data.shard_files import ShardFiles
    from training.job import Job

    job = Job.model_validate_json((folder / "job.json").read_bytes())
    files = ShardFiles(job.shards[:shards], job.arriving)
    fingerprint = fingerprint_shards(files, job.checksums, blur_faces=False)
    build_index(folder / "compared", files, fingerprint, blur_faces=False, workers=0)
    index = open_index(folder / "compared", fingerprint)
    assert index is not None
    samples = EpochOrder(0, len(index), None, None, 0).take(0, CHECKED).tolist()
    return peer["checked"] == [samples, [[index.key(sample), *index.image_span(sample)] for sample in samples]]


def main() -> int:
    """Run the benchmark."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("--samples", type=int)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--rank", type=Path, help="start as a rank of this job")
    options = parser.parse_args()
    if options.rank:
        start_rank(options.rank)
        return 0
    samples = options.samples or (2_000_000 if options.quick else 100_000_000)
    shards, some = -(-samples // SHARD_SAMPLES), 10 if options.quick else 50
    rows, details = [], dict[str, Any]()
    with tempfile.TemporaryDirectory(prefix="pairmill-start-") as name:
        folder = Path(name)
        write_shards(folder, shards)
        job = write_job(folder, shards, options.ranks)
        peer = measure_peer(job, some)
        is_equal = is_equal_to_peer(folder, some, peer)
        count = shards * SHARD_SAMPLES
        runs = {
            "first start, 1 rank": 1,
            "resumed start, 1 rank": 1,
            f"resumed start, {options.ranks} ranks": options.ranks,
        }
        for case, ranks in runs.items():
            details[case] = measure_start(job, ranks)
            is_equal &= len({json.dumps(each) for each in details[case].pop("checked")}) == ranks
            ours = count / details[case]["cpu_seconds"]
            rows.append(Row(case, ours, 1 / peer["cpu_seconds_per_sample"], PEER, "samples a CPU second"))
        (index,) = folder.glob("job/prepared/index")
        details["index_bytes_per_sample"] = sum(path.stat().st_size for path in index.iterdir()) / count
    details |= {
        "samples": count,
        "peer": {name: peer[name] for name in ("cpu_seconds_per_sample", "bytes_per_sample", "samples")},
    }
    return finish(
        "train_start", rows, ("numpy", "pyarrow", "torch"), equal=is_equal, as_json=options.json, details=details
    )


if __name__ == "__main__":
    sys.exit(main())
