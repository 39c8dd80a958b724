"""train: contrastive pre-training as a subprocess job under torchrun.

The job's folder, with its checkpoints, lies under the local home and is named after the snapshot's key, so a killed
training goes on from its last checkpoint. The finished weights are committed to the store.
"""

import json
import logging
import re
import shutil
from pathlib import Path

from dataops.snapshot import Counts, Record
from tasks.job import run_job
from tasks.stage import Made, Stage, Work

logger = logging.getLogger(__name__)

OUTPUT = (
    "model.safetensors",
    "model.json",
    "tokenizer.json",
    "metrics.jsonl",
    "skipped.json",
    "evidence-throughput.jsonl",
)
STEP = re.compile(r"\bstep\s+(\d+)\s*/\s*(\d+)")


def make(work: Work) -> Made:
    """Train on the packed dataset until the last step and write the weights, the tokenizer and the curves.

    The job's folder goes once a record says that all it made is in the store: whenever the run is killed, one of the two
    is there to go on from.
    """
    folder = work.context.home / "jobs" / f"train-{work.draft.key}"
    record = work.draft.done("train") or work.draft.finish(_train(work, folder))
    shutil.rmtree(folder, ignore_errors=True)
    return Made(record.parts, record.counts, record.facts)


def _train(work: Work, folder: Path) -> Record:
    dataset = work.inputs["pack"]
    store = work.draft.store
    tars = [dataset.path(part.name) for part in dataset.named("", ".tar")]
    shards = [str(store.local(name, keep_in=folder / "shards")) for name in tars]
    job = {
        "train": work.config.model_dump(mode="json"),
        "seed": work.seed,
        "shards": shards,
        "output": str(folder),
    }
    launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={work.config.nproc}")
    launcher += (
        f"--log-dir={folder / 'torchrun'}",
    )  # else a killed one leaves a folder among the system's temporary ones

    def follow(line: str) -> None:
        logger.info("%s", line)
        if match := STEP.search(line):
            work.context.progress(int(match[1]), int(match[2]), line)

    run_job("training.train", job, folder, launcher=launcher, on_line=follow)
    parts = [work.draft.put_file(name, folder / name) for name in OUTPUT]
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    facts = {"final": last, "model": work.config.model}
    samples = dataset.counts.kept
    return Record(task="train", parts=parts, counts=Counts(input=samples, kept=samples), facts=facts)


TRAIN = Stage(name="train", version=2, make=make, conserves=False)
