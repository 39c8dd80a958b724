"""Test exact resume: compare a job that is killed with SIGKILL at twenty random steps with an undisturbed one.

    python -m benchmarks.cases.train_kills [--kills 20] [--seed 0]

Each kill is at a random moment of a step, also while a thread writes a checkpoint. Prints one JSON object; the exit
code is 0 if the weights, the metrics and the list of skipped samples have equal bytes, else 1.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.loader import write_shards
from dataops.digest import file_sha256
from dataops.home import CHECKOUT

OUTPUTS = ("model.safetensors", "metrics.jsonl", "skipped.json", "tokenizer.json")
MODEL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32, "patch_size": None},
    "text_cfg": {"context_length": 32, "vocab_size": 300, "width": 64, "heads": 2, "layers": 2},
}
"""Small model: kills can harm only start, checkpoint and end. Batch norm has state too."""
TRAIN = {"epochs": 40, "vocab_size": 1000, "batch_size": 32, "checkpoint_every": 3, "threads": 1, "log_every": 1}


def start_trainer(folder: Path) -> subprocess.Popen[bytes]:
    """Start the trainer on the shards beside its output."""
    folder.mkdir(exist_ok=True)
    path, model = folder / "job.json", folder.parent / "model.json"
    model.write_text(json.dumps(MODEL))
    train = {**TRAIN, "model": str(model)}
    job = {"train": train, "shards": sorted(map(str, folder.parent.glob("*.tar"))), "output": str(folder)}
    path.write_text(json.dumps(job))
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "training.train", str(path)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


def count_steps(folder: Path) -> int:
    """Return the number of steps whose metrics are written."""
    metrics = folder / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def kill_after(folder: Path, step: int, delay: float) -> int:
    """Train, and kill the trainer `delay` seconds after a step; return the number of its steps."""
    with start_trainer(folder) as process:
        while process.poll() is None and count_steps(folder) < step:
            time.sleep(0.002)
        time.sleep(delay)
        process.kill()
    return count_steps(folder)


def main() -> int:
    """Run the test."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="3 kills")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="pairmill-kills-") as name:
        undisturbed, killed = Path(name) / "undisturbed", Path(name) / "killed"
        write_shards(Path(name), 256)
        started = time.monotonic()
        assert start_trainer(undisturbed).wait() == 0
        total = count_steps(undisturbed)
        seconds_per_step = (time.monotonic() - started) / total
        found = []
        for step in sorted(rng.sample(range(1, total - 1), 3 if options.quick else options.kills)):
            found.append(kill_after(killed, step, rng.uniform(0, seconds_per_step)))
            assert not (killed / "done.json").exists(), "the trainer ended before it was killed"
            sys.stderr.write(f"killed after step {found[-1]} of {total}\n")
        assert start_trainer(killed).wait() == 0
        same = {file: file_sha256(undisturbed / file) == file_sha256(killed / file) for file in OUTPUTS}
    result = {"date": datetime.now(UTC).date().isoformat(), "torch": version("torch"), "seed": options.seed}
    result |= {"train": TRAIN, "model": MODEL, "steps": total, "killed_after_steps": found, "same_bytes": same}
    sys.stdout.write(json.dumps(result) + "\n")
    return 0 if all(same.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
