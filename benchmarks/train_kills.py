"""A soak for exact resume: one job killed with SIGKILL at random moments until it ends, against one that is left alone.

    python -m benchmarks.train_kills [--kills 20] [--seed 0]

The moments are random in time, so kills fall into steps, into checkpoints that are being written, into start-up. Ends
with 0 and one line where the weights, the metrics and the list of skipped samples are the same bytes; with 1 else.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.loader import make_shards
from dataops.digest import file_sha256

ROOT = Path(__file__).resolve().parent.parent
MADE = ("model.safetensors", "metrics.jsonl", "skipped.json", "tokenizer.json")


def start(job: Path) -> subprocess.Popen[bytes]:
    """The trainer, on a job file."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "training.train", str(job)], env=environment, stderr=subprocess.DEVNULL
    )


def main() -> int:
    """Run the soak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="pairmill-kills-") as name:
        folder = Path(name)
        make_shards(folder, 256)
        train = {
            "model": "RN-mini-64",
            "epochs": 40,
            "batch_size": 32,
            "checkpoint_every": 3,
            "threads": 1,
            "log_every": 5,
        }
        jobs = {}
        for side in ("alone", "killed"):
            job = {"train": train, "shards": sorted(map(str, folder.glob("*.tar"))), "output": str(folder / side)}
            jobs[side] = folder / f"{side}.json"
            jobs[side].write_text(json.dumps(job))
        started = time.monotonic()
        assert start(jobs["alone"]).wait() == 0
        took, kills = time.monotonic() - started, 0
        while not (folder / "killed" / "done.json").exists():
            with start(jobs["killed"]) as process:
                try:
                    # So long a life on average that the kills asked for fit into one training.
                    process.wait(rng.uniform(0.2, 1.0) * took if kills < options.kills else None)
                except subprocess.TimeoutExpired:
                    process.kill()
                    kills += 1
        same = all(file_sha256(folder / "alone" / n) == file_sha256(folder / "killed" / n) for n in MADE)
    sys.stdout.write(json.dumps({"kills": kills, "seed": options.seed, "same_bytes": same}) + "\n")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
