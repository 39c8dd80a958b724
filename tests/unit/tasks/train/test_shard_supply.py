"""A training with supplied shards makes the same bytes as one with all shards on its disk, within the limit of the disk."""

import hashlib
import os
import threading
from contextlib import contextmanager, suppress

from tests.supplied_shards import dataset, job_of, size_of, supply
from tests.trainings import before_step, process_state, run_training, stop_at
from training.train import OUTPUTS

__all__ = ["dataset", "process_state"]  # fixtures


def read_outputs(folder):
    return {name: (folder / "out" / name).read_bytes() for name in OUTPUTS}


@contextmanager
def measured_sizes(folder):
    """Measure the total size of the shards in a folder continuously; yields the list of the sizes, in bytes."""
    sizes, ended = [0], threading.Event()

    def measure():
        while not ended.wait(0.001):
            with suppress(FileNotFoundError), os.scandir(folder) as entries:  # a shard may be deleted meanwhile
                sizes.append(sum(e.stat().st_size for e in entries if ".tar" in e.name))

    thread = threading.Thread(target=measure)
    thread.start()
    try:
        yield sizes
    finally:
        ended.set()
        thread.join()


def record_files(names):
    """Return hashlib's function, which then adds each file that it hashes to a list."""
    compute = hashlib.file_digest
    return lambda file, name: (names.append(file), compute(file, name))[1]


def test_supplied_shards_make_the_same_model_when_the_training_is_interrupted_and_a_shard_damaged(
    dataset, tmp_path, monkeypatch
):
    assert run_training(job_of(dataset, tmp_path / "here", 0)) == 0
    limit = size_of(dataset, 4)
    job = job_of(dataset, tmp_path / "come", limit)
    steps = []
    before_step(monkeypatch, lambda run: (steps.append(run.step), stop_at(6)(run)))
    with supply(dataset, job, limit), measured_sizes(job.parent / "shards") as sizes:
        assert run_training(job) == 75
    damaged, *whole = (job.parent / "shards").glob("*.tar")
    damaged.write_bytes(damaged.read_bytes()[::-1])
    hashed = []
    monkeypatch.setattr("dataops.digest.hashlib.file_digest", record_files(hashed))
    supply(dataset, job, limit)._delete_damaged()
    assert (len(hashed), damaged.exists()) == (1, False), "only the changed shard is hashed again"
    assert all(shard.exists() for shard in whole)
    with supply(dataset, job, limit), measured_sizes(job.parent / "shards") as later_sizes:
        assert run_training(job) == 0
    assert 0 < max(sizes + later_sizes) <= limit < size_of(dataset, 6)
    assert read_outputs(tmp_path / "come") == read_outputs(tmp_path / "here")
    assert len((tmp_path / "come/out/metrics.jsonl").read_text().splitlines()) == len(steps)


def test_job_ends_with_the_name_of_a_shard_that_is_damaged_or_missing(dataset, tmp_path, caplog):
    limit = size_of(dataset, 4)
    name = next(name for name in dataset[1] if name.endswith("00003.tar"))
    path = dataset[0].local(name)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[::-1])
    job = job_of(dataset, tmp_path / "a", limit)
    with supply(dataset, job, limit):
        assert run_training(job) == 3
    assert f"shard {name} differs from the sha256 in its dataset's manifest" in caplog.text
    path.unlink()
    with supply(dataset, job, limit):
        assert run_training(job) == 75
    assert f"no such object: {path}" in caplog.text
