"""What a start computes from the data is remembered, shared by the ranks of a machine, and redone for other data."""

import hashlib
import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import pytest

from dataops.digest import file_sha256
from dataops.errors import ConfigError, ContractError, PairmillError
from tests.tar_files import write_tar
from tests.trainings import pairs
from training import distributed, preparation
from training.data.loader import Dataset
from training.data.sample_index import build_index, open_index
from training.job import Job
from training.model.tokenizer import train_tokenizer
from training.preparation import check_shards, prepare_index, prepare_plan, prepare_tokenizer


@pytest.fixture
def job(make_job, sampled_shards):
    for path in sampled_shards:
        os.utime(path, ns=(10**18, 10**18))
    job = Job.model_validate_json(make_job("out").read_text())
    return job.model_copy(update={"checksums": {path.name: file_sha256(path) for path in sampled_shards}})


@pytest.fixture
def calls(monkeypatch):
    """Return the names of the expensive functions that are called from now on."""
    called = []

    def record(name, function):
        return lambda *arguments, **named: (called.append(name), function(*arguments, **named))[1]

    monkeypatch.setattr(preparation, "build_index", record("index", build_index))
    monkeypatch.setattr(preparation, "train_tokenizer", record("vocabulary", train_tokenizer))
    monkeypatch.setattr(preparation.Plan, "count_epochs", record("epochs", preparation.Plan.count_epochs))
    counted = SimpleNamespace(**vars(hashlib) | {"file_digest": record("shard", hashlib.file_digest)})
    monkeypatch.setattr("dataops.digest.hashlib", counted)
    return called


@pytest.fixture(params=[1, 2], ids=["one machine", "two machines"])
def two_ranks(request, monkeypatch):
    """Return a function that runs another one on two ranks, which are threads here; also on two machines of one rank."""
    numbers, barrier, values = threading.local(), threading.Barrier(2), {}

    def gather(value):
        values[numbers.rank] = json.loads(json.dumps(value))
        barrier.wait()
        gathered = [values[0], values[1]]
        barrier.wait()
        return gathered

    monkeypatch.setattr(distributed, "run_together", partial(distributed.run_together, wait_seconds=0.01))
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: numbers.rank)
    monkeypatch.setattr(distributed, "local_rank", lambda: numbers.rank if request.param == 1 else 0)
    monkeypatch.setattr(distributed, "local_world_size", lambda: 2 // request.param)
    monkeypatch.setattr(distributed, "gather_objects", gather)
    monkeypatch.setattr(distributed, "broadcast_from_first", lambda value: gather(value)[0])

    def run(work):
        def as_rank(rank):
            numbers.rank = rank
            try:
                return work()
            except PairmillError as error:
                return error
            except Exception as error:
                barrier.abort()
                return error

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(as_rank, range(2)))

    return run


@pytest.fixture
def opened(monkeypatch):
    """Return the names of the folders that ranks map from now on."""
    names = []

    def record(folder, fingerprint):
        names.append(folder.name)
        return open_index(folder, fingerprint)

    monkeypatch.setattr(preparation, "open_index", record)
    return names


def prepare(job):
    check_shards(job)
    index = prepare_index(job)
    plan = prepare_plan(job, job.train, index)
    dataset = Dataset(list(job.shards), 32, 0, index=index)
    tokenizer = prepare_tokenizer(job, dataset, job.train.load_dimensions())
    dataset.close()
    return plan.sizes, tokenizer.to_json(), tokenizer(["a pale thing 3"]).tolist(), index.fingerprint


def test_the_next_start_computes_nothing_again(job, calls):
    first = prepare(job)
    assert sorted(calls) == ["epochs", "index", "shard", "shard", "vocabulary"]
    dataset = Dataset(list(job.shards), 32, 0)
    tokenizer = train_tokenizer(("{}", *dataset.captions()), 300, 16)
    dataset.close()
    assert first[1:3] == (tokenizer.to_json(), tokenizer(["a pale thing 3"]).tolist())
    calls.clear()
    assert prepare(job) == first
    assert calls == []


@pytest.mark.parametrize(
    ("change", "again"),
    {
        "another seed": ({"seed": 1}, ["epochs"]),
        "other prompts": ({"train": {"prompts": ("a {}",)}}, ["vocabulary"]),
        "more epochs": ({"train": {"epochs": 9}}, ["epochs"]),
        "blurred faces": ({"train": {"blur_faces": True}}, ["index"]),
    }.values(),
)
def test_other_settings_compute_again_what_depends_on_them(job, calls, change, again):
    prepare(job)
    calls.clear()
    settings = job.train.model_copy(update=change.pop("train", {}))
    changed = job.model_copy(update={"train": settings, **change})
    if "index" in again:
        with pytest.raises(ContractError, match="face_bboxes"):
            prepare(changed)
    else:
        prepare(changed)
    assert calls == again


def test_a_changed_shard_is_noticed(job, calls):
    prepare(job)
    calls.clear()
    write_tar(job.shards[1], pairs(40, 12))
    with pytest.raises(ContractError, match=r"00001\.tar differs from its dataset's manifest"):
        check_shards(job)
    assert calls == ["shard"]
    changed = job.model_copy(update={"checksums": {path.name: file_sha256(path) for path in job.shards}})
    calls.clear()
    prepare(changed)
    assert sorted(calls) == ["epochs", "index", "shard", "vocabulary"]


@pytest.mark.parametrize("name", ["vocabulary.json", "epochs.json"])
@pytest.mark.parametrize(
    "damage", [lambda text: "", lambda text: text[:-9], lambda text: "3", lambda text: text.replace("4", "5")]
)
def test_a_damaged_file_is_computed_again(job, calls, name, damage):
    expected, path = prepare(job), job.output / "prepared" / name
    path.write_text(damage(path.read_text()))
    calls.clear()
    assert prepare(job) == expected
    assert calls == [path.stem]


def test_ranks_share_what_one_of_them_computes(job, calls, opened, two_ranks):
    one, two = two_ranks(lambda: prepare(job))
    assert one == two
    shards = 2 if distributed.local_world_size() == 2 else 4  # each machine checks its own copies
    assert sorted(calls) == sorted(["epochs", "index", "vocabulary", *["shard"] * shards])
    calls.clear()
    assert two_ranks(lambda: prepare(job)) == [one, one]
    assert calls == []
    assert opened == ["index"] * 4


def test_a_machine_whose_files_have_other_times_has_an_index_of_its_own(job, calls, opened, two_ranks, tmp_path):
    (tmp_path / "b").mkdir()
    copies = [shutil.copyfile(path, tmp_path / "b" / path.name) for path in job.shards]
    unlisted = job.model_copy(update={"checksums": {}})
    other = unlisted.model_copy(update={"shards": tuple(copies)})
    found = two_ranks(lambda: prepare_index(unlisted if distributed.rank() == 0 else other))
    machines = 2 // distributed.local_world_size()
    assert calls == ["index"] * machines
    assert len({index.fingerprint for index in found}) == machines
    assert sorted(name.partition("-")[0] for name in opened) == ["index", "index"]
    assert len(set(opened)) == machines


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("error", [ContractError("a shard is damaged"), ConfigError("no such vocabulary")])
def test_a_deliberate_error_of_one_rank_is_raised_on_all(two_ranks, failing, error):
    def fail():
        raise error

    def run():
        distributed.run_together(fail if distributed.rank() == failing else None)

    raised = two_ranks(run)
    assert raised[failing] is error
    assert (type(raised[1 - failing]), str(raised[1 - failing])) == (type(error), str(error))


def test_ranks_wait_longer_than_one_exchange(two_ranks, monkeypatch):
    exchanges, done, gather = [], threading.Event(), distributed.gather_objects

    def count(value):
        exchanges.append(value)
        if len(exchanges) > 8:
            done.set()
        return gather(value)

    monkeypatch.setattr(distributed, "gather_objects", count)

    def run():
        rank = distributed.rank()
        return distributed.run_together((lambda: done.wait(30)) if rank == 0 else None)

    assert two_ranks(run) == [True, None]
