"""Measure the start of a training on many shards: from the stage's start to its first step, and again when it resumes.

    python -m benchmarks.startup [--quick] [--json]

The dataset has 100,000 shards of two pairs, which are links to one tar, in a folder as store, on this disk: the list of
parts, the local copies, their checksums, the index of the samples and the order of an epoch are those of any dataset of as
many shards. So it measures what a shard costs; each of its samples adds about 3 us to the first start. The CPU time is that
of the stage and its trainer. A tenth of the shards shows whether it is proportional to their number.
"""

import json
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from benchmarks.measure import Row, finish, make_parser
from dataops.process import cpu_seconds
from dataops.snapshot import Counts, Draft, load_manifest
from dataops.store import FolderStore
from tasks.engine.context import Context
from tasks.engine.stage import Work, plan
from tasks.engine.subprocess_job import run_job
from tasks.train.stage import STEP, TRAIN, build_job
from tests.manifests import build_manifest
from tests.trainings import VIT, packed
from training.config import TrainConfig

SHARDS, GOAL_SECONDS = 100_000, 60.0
PAIRS = 2


class FirstStep(Exception):
    """The first step has ended."""


def write_dataset(store, shards):
    """Write a dataset whose shards are links to one."""
    draft = Draft(store, "pack", "a" * 16)
    parts = []
    for part in packed(draft, 1, PAIRS):
        source = Path(store.root, draft.path(part.name))
        for number in range(shards):
            name = part.name.replace("00000", f"{number:06d}")
            if number % 30_000 == 0:  # a file has at most 65,000 names
                source = Path(shutil.copyfile(source, source.with_name(f"copy-{number}-{part.name}")))
            os.link(source, source.with_name(name))
            parts.append(part.model_copy(update={"name": name, "uid_sum": None}))
    pairs = Counts(input=PAIRS * shards, kept=PAIRS * shards)
    return draft.commit(
        build_manifest("pack", parts, key=draft.key, counts=pairs, facts={"samples": PAIRS * shards, "shards": shards})
    )


def start(folder):
    """Return the wall time and the CPU time until the first step, in seconds."""
    (folder / "vit.json").write_text(json.dumps(VIT))
    settings = {
        "model": str(folder / "vit.json"),
        "batch_size": 64,
        "vocab_size": 300,
        "precision": "fp32",
        "log_every": 1,
    }
    settings |= {"device": "cpu", "epochs": 1, "holdout": 0.0, "shuffle_shards": 100}
    config = TrainConfig.model_validate(settings)
    store, began, cpu = FolderStore(folder / "store"), time.monotonic(), cpu_seconds()
    upstream = load_manifest(store, "pack", "a" * 16)
    planned = plan(TRAIN, config, 0, [upstream], store)
    work = Work(config, 0, {"pack": upstream}, Draft(store, "train", planned.key), Context(store, folder / "home"))
    job = build_job(work, folder / "job" / "shards", folder / "job")

    def end(line):
        if STEP.search(line):
            raise FirstStep

    with suppress(FirstStep):
        run_job("training.train", job, folder / "job", on_line=end)
    return time.monotonic() - began, cpu_seconds() - cpu


def main():
    """Measure and print."""
    options = make_parser(__doc__).parse_args()
    rows, walls = [], {}
    for shards in (1_000, 10_000) if options.quick else (SHARDS // 10, SHARDS):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write_dataset(FolderStore(folder / "store"), shards)
            for name in ("first start", "resumed"):
                case = f"{name}, {shards:,} shards"
                walls[case], cpu = start(folder)
                rows.append(Row(f"{case}, by CPU", shards / cpu, SHARDS / GOAL_SECONDS, "the goal", "shards/s", 1.0))
    details = {"wall_seconds": walls}
    return finish("startup", rows, ["torch", "pyarrow"], equal=True, as_json=options.json, details=details)


if __name__ == "__main__":
    raise SystemExit(main())
