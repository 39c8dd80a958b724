"""Kill a takedown at random moments, and complete it: `python -m tests.kills.takedown --from STORE`.

The store of a finished run, such as the demo's, is copied into a folder or into SeaweedFS. In each round a URL of its
newest dataset is taken down with `--delete-raw`. The command is killed by SIGKILL at a random moment, and repeated until it
ends by itself. It must then end with 0. After that, all objects of the store and all files of the home folder are searched
by other code than that of the command: Parquet files as rows, all others as bytes. Models and records of runs must have
the bytes that they had before.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from dataops.home import CHECKOUT
from dataops.shards.tar import read_samples
from dataops.snapshot import Manifest
from dataops.store import FolderStore, Store, open_store
from tests.kills.seaweed import SeaweedFS

BUCKET = "takedown"
OUR_FILES = ("request.txt", "output.json", "errors.log")
LEFT_OUT = "takedowns/"
"""Prefix of the objects that name what later runs leave out."""
UNCHANGED = ("train/", "runs/")
"""Prefixes of the objects that no takedown changes."""


def copy_store(source: Path, target: Store) -> None:
    """Copy a finished store without its evaluations, whose names of classes may be captions."""
    for entry in FolderStore(source).entries(""):
        if not entry.name.startswith(("evaluate/", "register/", LEFT_OUT)):
            target.put(entry.name, source / entry.name)


def compute_digests(store: Store) -> dict[str, str]:
    """Return the sha256 of each object that no takedown changes."""
    names = [name for prefix in UNCHANGED for name in store.names(prefix.rstrip("/"))]
    return {name: hashlib.sha256(store.read(name)).hexdigest() for name in names}


def newest_dataset(store: Store) -> Manifest:
    """Return the newest dataset version."""
    names = [name for name in store.names("pack") if name.endswith("/manifest.json")]
    return max((Manifest.decode(store.read(name)) for name in names), key=lambda one: one.created_at)


def choose(store: Store, rng: random.Random) -> tuple[str, list[bytes], list[str]]:
    """Return a URL of the dataset, the images in the shards under it, and its captions."""
    dataset = newest_dataset(store)
    rows = [row for part in dataset.named("part-", ".parquet") for row in read_rows(store, dataset.path(part.name))]
    url = rng.choice(sorted({row["url"] for row in rows}))
    ours = [row for row in rows if row["url"] == url]
    images = []
    for shard in sorted({row["shard"] for row in ours}):
        with store.open(dataset.path(shard)) as file:
            keys = {row["key"] for row in ours}
            images += [members["jpg"] for key, members in read_samples(file, shard) if key in keys]
    return url, images, [row["caption"] for row in ours]


def read_rows(store: Store, name: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet object."""
    with store.open_once(name) as file:
        yield from pq.ParquetFile(file).read().to_pylist()


def find_left(store: Store, home: Path, url: str, images: list[bytes]) -> list[str]:
    """Return the names of objects and files that hold the URL, or the bytes of an image."""
    left = []
    for name in store.names(""):
        if name.startswith(LEFT_OUT):
            continue
        if name.endswith(".parquet"):
            found = any(repr(url) in repr(row) for row in read_rows(store, name))
        else:
            data = store.read(name)
            found = url.encode() + b'"' in data or any(image in data for image in images)
        left += [name] if found else []
    for path in home.rglob("*"):
        if path.is_file() and path.name not in OUR_FILES and "store" not in path.relative_to(home).parts:
            data = path.read_bytes()
            left += [str(path)] if url.encode() + b'"' in data or any(image in data for image in images) else []
    return left


def take_down(home: Path, store: Store, kill_after: float | None) -> tuple[int, float]:
    """Run the command; return its exit code (-9 if it was killed) and its wall time, in seconds."""
    options = ["--delete-raw", "--yes", "--json", "--store", store.uri]
    command = [sys.executable, "-m", "flows.cli", "takedown", str(home / "request.txt"), *options]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment |= {"PAIRMILL_HOME": str(home), "PYTHONPATH": str(CHECKOUT)}
    began = time.monotonic()
    with (home / "output.json").open("wb") as out, (home / "errors.log").open("wb") as errors:
        process = subprocess.Popen(command, stdout=out, stderr=errors, env=environment, cwd=CHECKOUT)
        try:
            process.wait(kill_after)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return process.returncode, time.monotonic() - began


def run(store: Store, home: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kill takedowns until `kills` kills are done; return what happened."""
    rng, killed, findings, copies, rounds = random.Random(seed), list[float](), list[str](), 0, 0
    typical: float | None = None
    digests = compute_digests(store)
    while len(killed) < kills and rounds < 4 * kills:
        rounds += 1
        url, images, _ = choose(store, rng)
        (home / "request.txt").write_text(f"{url}\n")
        code, seconds = -9, 0.0
        while code == -9:
            is_last = typical is None or len(killed) >= kills
            code, seconds = take_down(home, store, None if is_last else rng.uniform(0.2, 1.0) * float(typical or 0))
            if code == -9:
                killed.append(round(seconds, 2))
        typical = min(seconds, typical or seconds) if code != -9 else typical
        found = [one for report in json.loads((home / "output.json").read_text())["stores"]
                 for one in report.get("search", {}).get("found", [])]  # fmt: skip
        if code == 3 and found and all("another pair" in one["remedy"] for one in found):
            copies += 1  # the same image under another URL, which the request does not name
            continue
        left = find_left(store, home, url, images)
        changed = [name for name, digest in compute_digests(store).items() if digests.get(name) != digest]
        if changed:
            findings.append(f"{url}: changed {changed}")
        if code or left:
            findings.append(f"{url}: exit code {code}, left in {left}, found {found}")
        sys.stderr.write(f"round {rounds}: {url}: exit code {code}, {len(killed)} kills, left in {left}\n")
    return {
        "kills": killed,
        "rounds": rounds,
        "copies_named": copies,
        "seconds_undisturbed": typical,
        "unchanged_objects": len(digests),
        "findings": findings,
    }


def main() -> int:
    """Run the benchmark, and print one JSON object; return 1 if there are findings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="source", type=Path, required=True, help="folder of a finished store")
    parser.add_argument("--store", choices=("folder", "s3"), default="folder")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="takedown-")))
        home = folder / "home"
        home.mkdir(mode=0o700)
        os.environ["PAIRMILL_HOME"] = str(home)
        uri = str(folder / "copy")
        if options.store == "s3":
            (folder / "weed").mkdir()
            server = SeaweedFS(folder / "weed")
            stack.callback(server.stop)
            server.start()
            server.create_bucket(BUCKET)
            os.environ |= server.environment
            uri = f"s3://{BUCKET}/copy"
        store = open_store(uri)
        copy_store(options.source, store)
        result = run(store, home, options.kills, options.seed)
        shutil.rmtree(home / "cache", ignore_errors=True)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    head = {"benchmark": "kills_takedown", "date": now, "store": options.store, "seed": options.seed}
    sys.stdout.write(json.dumps(head | result) + "\n")
    return 1 if result["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
