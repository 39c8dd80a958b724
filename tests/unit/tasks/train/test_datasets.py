"""A training on several datasets: the same bytes from any disk, its inputs, and the errors of its config."""

import json

import pytest

from dataops.errors import ConfigError, ContractError
from dataops.snapshot import Counts, Draft
from dataops.store import FolderStore
from dataops.trace.requests import make_request, record_request
from dataops.trace.sources import list_training_datasets
from dataops.trace.targets import parse_target
from tasks.engine.context import Context
from tasks.engine.stage import make, plan
from tasks.train import stage as train_stage
from tasks.train.stage import TRAIN, find_datasets, named_inputs
from tests.manifests import build_manifest
from tests.trainings import VIT, packed, process_state, run_training
from tests.unit.tasks.dataset_chain import packed_in, pair
from training.config import TrainConfig

__all__ = ["process_state"]  # a fixture
OWN, OTHER = "a" * 16, "b" * 16
MIXTURE = [{"weight": 1}, {"key": OTHER, "weight": 2}]


@pytest.fixture
def store(tmp_path):
    return FolderStore(tmp_path / "store")


def write_dataset(store, key, shards, pairs_each):
    draft = Draft(store, "pack", key)
    parts, pairs = packed(draft, shards, pairs_each), shards * pairs_each
    return draft.commit(build_manifest("pack", parts, key=key, counts=Counts(input=pairs, kept=pairs)))


@pytest.fixture
def run_here(monkeypatch, process_state):
    """Run the trainer in this process, which saves its start."""

    def run(module, job, folder, **_):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "job.json").write_text(json.dumps(job))
        assert run_training(folder / "job.json") == 0

    monkeypatch.setattr(train_stage, "run_job", run)


def plan_training(store, folder, own, **more):
    (folder / "vit.json").write_text(json.dumps(VIT))
    train = {"model": str(folder / "vit.json"), "epochs": 3, "batch_size": 8, "vocab_size": 300, "threads": 1}
    train |= {"precision": "fp32", "shuffle_shards": 1, "workers": 1, "cache_bytes": 0, **more}
    return plan(TRAIN, TrainConfig.model_validate(train), 0, [own], store)


def test_a_mixture_makes_the_same_bytes_when_its_shards_do_not_fit_on_the_disk(store, tmp_path, run_here):
    own, other = write_dataset(store, OWN, 3, 4), write_dataset(store, OTHER, 2, 5)
    largest = max(part.bytes for one in (own, other) for part in one.named("", ".tar"))
    made = []
    for limit in (0, 4 * largest):
        planned = plan_training(store, tmp_path, own, dataset=MIXTURE[::-1], shard_cache_bytes=limit)
        assert [one.key for one in planned.inputs[:2]] == [OWN, OTHER]
        made.append(make(planned, Context(store, tmp_path / f"home-{limit}")))
        store.delete([f"train/{planned.key}/manifest.json"])
    digests = [{part.name: part.sha256 for part in one.parts if "evidence" not in part.name} for one in made]
    assert made[0].key == made[1].key
    assert digests[0] == digests[1]
    assert made[0].counts == Counts(input=22, kept=22)
    facts = made[0].facts["datasets"]
    assert [(one["key"], one["samples"]) for one in facts] == [(OWN, 12), (OTHER, 10)]
    epoch = sum(one["samples_per_epoch"] for one in facts)
    assert facts[1]["samples_per_epoch"] == round(epoch * 2 / 3)
    assert made[0].facts["final"]["samples_seen"] == 3 * epoch
    listed = list_training_datasets(made[0], store)
    assert [(one.key, round(one.share, 3), one.is_own) for one in listed] == [(OWN, 0.333, True), (OTHER, 0.667, False)]
    assert listed[1].manifest == other
    moved = other.model_copy(update={"key": "e" * 16})
    store.put(moved.path("manifest.json"), moved.model_dump_json().encode())
    store.delete([own.path("manifest.json"), other.path("manifest.json")])
    elsewhere = own.model_copy(update={"key": "f" * 16})
    found = [one.manifest for one in list_training_datasets(made[0], store, elsewhere)]
    assert found == [elsewhere, moved], "the same content under another key"
    assert list_training_datasets(made[0], store)[0].manifest is None


def test_key_depends_on_the_weights_and_the_content_of_each_dataset(store, tmp_path):
    own, other = write_dataset(store, OWN, 1, 4), write_dataset(store, OTHER, 1, 5)
    copy = build_manifest("pack", other.parts, key="c" * 16, counts=other.counts)
    store.put(f"pack/{copy.key}/manifest.json", copy.model_dump_json().encode())
    for part in other.parts:
        store.put(copy.path(part.name), store.read(other.path(part.name)))
    write_dataset(store, "d" * 16, 1, 6)

    def key(*tables):
        return plan_training(store, tmp_path, own, dataset=tables).key

    mixed = key(*MIXTURE)
    assert key(MIXTURE[1], MIXTURE[0]) == mixed
    assert key(MIXTURE[0], {"key": copy.key, "weight": 2}) == mixed, "the same content under another key"
    assert key({"weight": 7}) == key() != mixed, "the run's own dataset alone is no mixture"
    assert key(MIXTURE[0], {"key": "d" * 16, "weight": 2}) != mixed
    assert key(MIXTURE[0], {"key": OTHER, "weight": 3}) != mixed


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([{"weight": 1}, {"weight": 1}], "2 tables have no key; exactly one"),
        ([{"key": OTHER, "weight": 1}], "0 tables have no key; exactly one"),
        ([{"weight": 1}, {"key": OTHER, "weight": 1}, {"key": OTHER, "weight": 2}], f"{OTHER} is named twice"),
        ([{"weight": 0}, {"key": OTHER, "weight": 1}], "greater than 0"),
        ([{"weight": float("inf")}, {"key": OTHER, "weight": 1}], "finite number"),
        ([{"weight": 1}, {"key": "pack/../x", "weight": 1}], "pattern"),
    ],
)
def test_wrong_tables_are_refused(tables, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig.model_validate({"dataset": tables})


def test_a_dataset_with_pairs_that_were_taken_down_since_is_refused(tmp_path):
    store, manifests = packed_in(tmp_path / "store", [pair(number) for number in range(6)])
    config = TrainConfig.model_validate({"dataset": [{"weight": 1}, {"key": manifests["pack"].key, "weight": 1}]})

    def request(url):
        record_request(store, make_request([parse_target(url)], ""))

    request("http://unrelated.example/x.jpg")
    assert named_inputs(config, store) == [manifests["pack"].as_input()], (
        "a request that matches no pair changes nothing"
    )
    request("http://host1.example/4.jpg")
    with pytest.raises(ConfigError, match=f"takedown requests remove pairs of pack/{manifests['pack'].key}"):
        named_inputs(config, store)
    with pytest.raises(ContractError, match=r"of pack/.* `pairmill rerun RUN_ID --until pack`"):
        make(plan(TRAIN, TrainConfig(), 0, [manifests["pack"]]), Context(store=store, home=tmp_path))
    other = build_manifest("pack", key=OWN)
    assert find_datasets(config, other, store) == [other, manifests["pack"]], "a training that has begun ends"
