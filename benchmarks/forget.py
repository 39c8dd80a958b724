"""What it costs to forget a pair exactly, and whether the model equals one that never saw it.

    python -m benchmarks.forget STORE/pack/KEY CONFIG FOLDER [--pairs 5948] [--shards 24] [--requests 20] [--json]

The first `--pairs` of the shards of a packed dataset are trained by the `[train]` of a config, such as the demo's, in one
and in two ranks, with one phase and with four. For each of `--requests` random pairs, a version of the dataset without it
is made, and the training replayed from the newest checkpoint before its first visit, in another process; and, in a third
one, trained from the first step with the place empty. Weights and losses of both must have equal digests. The cost is the
share of the CPU time, and of the steps, of a whole training. `first_training` computes the features of its frozen towers
(and imports, which take 4 s), and costs are shares of it too. A replay has those of the shards that did not change, as
after a takedown, and computes those of the others; the training from the first step reads the same files, and so do the
requests of a second number of ranks, which are the same ones.

FOLDER keeps each training that has ended: the same command continues after a stop.

Goals: 60% of a training on average, 25% with four phases; equality always.
"""

import io
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.measure import finish, make_parser, make_printer
from dataops.digest import file_sha256
from dataops.schema import CURATED
from dataops.shards.tar import ShardWriter, format_index, read_samples
from dataops.snapshot import Counts, Draft, fetch_table, load_manifest
from dataops.store import FolderStore, open_store
from plugins.forget.hook import FORGET
from plugins.forget.places import list_shards
from plugins.forget.replay import state_facts
from tasks.train.stage import OUTPUT, TRAIN, external_inputs
from tests.manifests import build_manifest
from training.config import TrainConfig

COMPARED = ("model.safetensors", "metrics.jsonl", "skipped.json")


def read_dataset(uri, pairs, cuts):
    """Return the first pairs of each shard of a packed dataset, in so many smaller ones."""
    store_uri, _, key = uri.rpartition("/pack/")
    store = open_store(store_uri)
    manifest = load_manifest(store, "pack", key)
    assert manifest is not None, f"{uri} is not complete"
    names, found = list_shards([part.name for part in manifest.parts]), []
    for name in names:
        rows = fetch_table(store, manifest.path(name)).to_pylist()[: pairs // len(names)]
        tar = name.removeprefix("part-").replace(".parquet", ".tar")
        with store.open(manifest.path(tar)) as file:
            members = dict(read_samples(file, tar))
        found += [(row, dict(members[row["key"]])) for row in rows]
    return [found[number * len(found) // cuts : (number + 1) * len(found) // cuts] for number in range(cuts)]


@dataclass
class Case:
    """One training, and its replays without random pairs."""

    folder: Path
    samples: Sequence[Sequence[tuple[dict, dict]]]
    table: dict[str, Any]
    ranks: int
    phases: int
    computes: bool
    """Whether it computes the features that cases with other ranks read."""

    def __post_init__(self):
        self.store = FolderStore(self.folder / "store")
        self.features = self.folder.with_name(f"features-{self.phases}")

    def has_ended(self, job):
        """Return whether a training has ended in each rank."""
        return all(job.with_name(f"cpu-{rank}").exists() for rank in range(self.ranks))

    def pack(self, key, removed=""):
        """Write the dataset without a pair, as pack does."""
        if (found := load_manifest(self.store, "pack", key)) is not None:
            return found
        draft, parts, kept = Draft(self.store, "pack", key), [], 0
        for shard, samples in enumerate(self.samples):
            file, index, rows = io.BytesIO(), [], []
            writer = ShardWriter(file)
            for row, members in samples:
                if row["uid"] != removed:
                    index.append(writer.write(row["key"], members))
                    rows.append(row)
            writer.close()
            columns = [CURATED.field(name) for name in ("key", "uid", "caption", "sampling_probability")]
            parts += [
                draft.put_bytes(f"{shard:05d}.tar", file.getvalue(), len(rows)),
                draft.put_bytes(f"{shard:05d}.idx", format_index(index).encode(), len(rows)),
                draft.put_table(f"part-{shard:05d}.parquet", pa.Table.from_pylist(rows, schema=pa.schema(columns))),
            ]
            kept += len(rows)
        manifest = build_manifest("pack", parts, key=key, counts=Counts(input=kept, kept=kept))
        draft.commit(manifest)
        return manifest

    def config(self, **forget):
        """Return the config, with changes in [train.forget]."""
        table = {"phases": self.phases, "checkpoints": 12, **forget}
        return TrainConfig.model_validate({**self.table, "nproc": self.ranks, "forget": table})

    def prepare(self, name, config, dataset):
        """Write a job as the stage does, and return its file."""
        folder, known, number = self.folder / name, self.features, name.partition("-")[2]
        path, features = folder / "job.json", known.with_name(f"{known.name}-{number}") if number else known
        if self.has_ended(path):
            return path
        shutil.rmtree(folder, ignore_errors=True)  # what was stopped would cost less than a whole training
        if self.computes and name in ("first", f"replay-{number}"):
            shutil.rmtree(features, ignore_errors=True)
        FORGET.prepare_job(config, self.store, [dataset], folder)
        shards = [self.store.local(dataset.path(part.name), folder / "shards") for part in dataset.named("", ".tar")]
        for part in dataset.named("", ".idx"):
            self.store.local(dataset.path(part.name), folder / "shards")
        sums = {part.name: part.sha256 for part in dataset.named("", ".tar")}
        for sha256 in () if features.exists() or features == known else sums.values():  # what a takedown leaves
            for file in known.rglob(f"*-{sha256[:16]}-*"):
                (features / "towers").mkdir(parents=True, exist_ok=True)
                os.link(file, features / "towers" / file.name)
        job = {"train": config.model_dump(mode="json"), "shards": list(map(str, shards)), "checksums": sums}
        path.write_text(json.dumps({**job, "output": str(folder), "features": str(features)}))
        return path

    def run(self, jobs):
        """Train those of some jobs that have not ended, in one process or one for each rank; return their CPU seconds.

        A short training before them pays the imports, but not those of the first one.
        """
        launch = [] if self.ranks == 1 else ["-m", "training.launch", str(self.ranks)]
        left = [job for job in jobs if not self.has_ended(job)]
        if left and self.features.exists():
            shutil.rmtree(self.folder / "short", ignore_errors=True)
            short = self.config().model_copy(update={"epochs": self.phases})
            left.insert(0, self.prepare("short", short, self.pack("a" * 16)))
        if left:
            command = [sys.executable, *launch, "-m", "benchmarks.cases.forget_jobs", *map(str, left)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-3000:]
        return [sum(float(one.read_text()) for one in job.parent.glob("cpu-*")) for job in jobs]

    def commit(self, job, config, dataset):
        """Write the snapshot of a training, and return its key."""
        folder, draft = job.parent, Draft(self.store, "train", "b" * 16)
        if load_manifest(self.store, "train", draft.key) is not None:
            return draft.key
        files = [*(folder / name for name in OUTPUT), *FORGET.list_output(folder)]
        parts = [draft.put_file("-".join(path.relative_to(folder).parts), path) for path in files]
        draft.commit(
            build_manifest(
                "train",
                parts,
                key=draft.key,
                stage_version=TRAIN.version,
                inputs=[dataset.as_input(), *external_inputs(config)],
                config=config.key_config(),
                facts={"forget": state_facts(folder)},
            )
        )
        return draft.key

    def measure(self, requests):
        """Return cost and equality of replays without random pairs."""
        dataset, config = self.pack("a" * 16), self.config()
        [started] = self.run([self.prepare("first", config, dataset)])
        base_job = self.prepare("base", config, dataset)
        [whole] = self.run([base_job])
        base = self.commit(base_job, config, dataset)
        uids = [row["uid"] for shard in self.samples for row, _ in shard]
        chosen = np.random.default_rng(self.phases).permutation(len(uids))[:requests]
        jobs = {"replay": [], "reference": []}
        for number, one in enumerate(chosen):
            dataset = self.pack(f"{number + 1:016x}", uids[one])
            for name, listed in jobs.items():
                changed = self.config(base=base, from_start=name == "reference")
                listed.append(self.prepare(f"{name}-{number}", changed, dataset))
        costs = [self.run(listed) for listed in jobs.values()]
        digests = [[[file_sha256(job.parent / n) for n in COMPARED] for job in listed] for listed in jobs.values()]
        of_base = file_sha256(base_job.parent / COMPARED[0])
        steps = state_facts(base_job.parent)["steps"]
        ran = [state_facts(job.parent)["step"] for job in jobs["replay"]]
        return {
            "ranks": self.ranks,
            "phases": self.phases,
            "pairs": len(uids),
            "steps": steps,
            "requests": requests,
            "equal": sum(a == b for a, b in zip(*digests, strict=True)),
            "other_than_base": sum(one[0] != of_base for one in digests[0]),
            "from_step": ran,
            "first_training_cpu_seconds": round(started, 2),  # with imports, which is most of a small one
            "training_cpu_seconds": round(whole, 2),
            "mean_cost_cpu": round(float(np.mean(costs[0])) / whole, 3),
            "mean_cost_cpu_of_first": round(float(np.mean(costs[0])) / started, 3) if self.computes else None,
            "mean_cost_steps": round(float(np.mean([1 - step / steps for step in ran])), 3),
            "mean_reference_cpu_seconds": round(float(np.mean(costs[1])), 2),
        }


def main():
    """Run it; exit with 1 if a digest differs."""
    parser = make_parser(__doc__.partition("\n")[0])
    parser.add_argument("dataset", help="STORE/pack/KEY")
    parser.add_argument("config", type=Path, help="config whose [train] is used")
    parser.add_argument("folder", type=Path, help="keeps the trainings")
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=5948)
    parser.add_argument("--shards", type=int, default=24)
    parser.add_argument("--ranks", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--phases", type=int, nargs="+", default=(1, 4))
    arguments = parser.parse_args()
    show, requests = make_printer(arguments.json), 2 if arguments.quick else arguments.requests
    samples = read_dataset(arguments.dataset, arguments.pairs, arguments.shards)
    table, found = tomllib.loads(arguments.config.read_text())["train"], []
    for ranks in arguments.ranks:
        for phases in arguments.phases:
            folder = arguments.folder.resolve() / f"{ranks}-{phases}"
            case = Case(folder, samples, table, ranks, phases, ranks == arguments.ranks[0])
            found.append(case.measure(requests))
            show(json.dumps(found[-1]))
    equal = all(one["equal"] == requests and one["other_than_base"] for one in found)  # some pairs are never drawn
    return finish("forget", [], ["torch"], equal=equal, as_json=arguments.json, details={"cases": found})


if __name__ == "__main__":
    raise SystemExit(main())
