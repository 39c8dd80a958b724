"""A replay equals a training in which the places were empty from the start, and what cannot be replayed is refused."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.torch import save_file

import tasks.train.stage as stage_module
from dataops.errors import ConfigError
from dataops.snapshot import Counts, Draft
from dataops.store import FolderStore
from dataops.trace.requests import STAGE, make_request, record_request, report_name
from dataops.trace.targets import Target
from flows.records import RunRecord, StageRun, remember_store
from plugins.forget.card import ForgetFacts, describe_forgotten
from plugins.forget.checkpoint import check_environments
from plugins.forget.command import command
from plugins.forget.places import FILE, count_start_shards, find_first_visits, make_plan
from plugins.forget.replay import find_reason, load_base, plan_replay, prepare_job, read_places
from tasks.engine.context import Context
from tasks.engine.stage import make, plan
from tasks.train.stage import TRAIN
from tests.manifests import build_manifest
from tests.trainings import VIT, packed
from training.config import TrainConfig
from training.job import Job
from training.model_config import MIN_VOCAB_SIZE, BackboneConfig
from training.train import train

SHARDS, EACH = 6, 5
PAIRS = SHARDS * EACH


def uid(number):
    return f"{number:032x}"


class Lab:
    """A store with versions of one dataset, and trainings on them in this process."""

    def __init__(self, folder):
        self.folder, self.store = folder, FolderStore(folder / "store")
        (folder / "model.json").write_text(json.dumps(VIT))
        self.versions = 0

    def pack(self, removed=(), requests=()):
        """Write a version of the dataset without some pairs."""
        self.versions += 1
        draft = Draft(self.store, "pack", f"{self.versions:016x}")
        parts = packed(draft, SHARDS, EACH, removed)
        kept = PAIRS - len(removed)
        inputs = [{"stage": STAGE, "key": one, "digest": one} for one in requests]
        manifest = build_manifest("pack", parts, key=draft.key, counts=Counts(input=kept, kept=kept), inputs=inputs)
        draft.commit(manifest)
        return manifest

    def take_down(self, removed):
        request = make_request([Target("uid", uid(number)) for number in removed], "")
        record_request(self.store, request)
        self.store.put(report_name(request.digest), json.dumps({"uids": [uid(one) for one in removed]}).encode())
        return request.digest, self.pack(removed, [request.digest])

    def config(self, **changes):
        table = {
            "model": str(self.folder / "model.json"), "epochs": 2, "batch_size": 6, "lr": 1e-3, "precision": "fp32",
            "threads": 1, "workers": 0, "device": "cpu", "vocab_size": MIN_VOCAB_SIZE, "forget": {},
        }  # fmt: skip
        return TrainConfig.model_validate(table | changes)

    def train(self, config, dataset):
        return make(plan(TRAIN, config, 0, [dataset], self.store), Context(self.store, self.folder / "home"))

    def replay(self, base, dataset, **changes):
        """Return a replay, and the reference from the first step."""
        forget = {"base": base.key, **changes.pop("forget", {})}
        return tuple(
            self.train(self.config(**changes, forget={**forget, "from_start": one}), dataset) for one in (False, True)
        )


@pytest.fixture
def lab(tmp_path, monkeypatch, process_state):
    def run_here(module, job, folder, **options):
        train(Job.model_validate(job))

    monkeypatch.setattr(stage_module, "run_job", run_here)
    return Lab(tmp_path)


def weights(manifest):
    names = ("model.safetensors", "metrics.jsonl", "skipped.json")
    return {part.name: part.sha256 for part in manifest.parts if part.name in names}


def late_pair(lab, base, config):
    """Return the pair whose first visit is the last."""
    visits = find_first_visits(make_plan(config, 0, load_base(lab.store, base.key).places))
    return int(np.argmax(np.where(visits > visits.max() - 1, 0, visits)))


@pytest.mark.parametrize("phases", [1, 3])
def test_a_replay_equals_a_training_with_empty_places(lab, phases):
    forget = {"phases": phases, "checkpoints": 4}
    config = lab.config(forget=forget)
    first = lab.pack()
    base = lab.train(config, first)
    removed = [late_pair(lab, base, config)]
    request, second = lab.take_down(removed)
    replayed, reference = lab.replay(base, second, forget=forget)
    assert weights(replayed) == weights(reference) != weights(base)
    facts, of_reference = ForgetFacts.of(replayed), ForgetFacts.of(reference)
    assert (facts.forgotten, facts.removed, of_reference.step) == ((request,), 1, 0)
    assert 0 < facts.step < find_first_visits(make_plan(config, 0, load_base(lab.store, base.key).places))[removed[0]]
    # the model that has forgotten one pair forgets another, of which a checkpoint of the first training did not know
    other, third = lab.take_down([*removed, 7])
    again, from_start = lab.replay(replayed, third, forget=forget)
    assert weights(again) == weights(from_start) != weights(replayed)
    assert ForgetFacts.of(again).forgotten == (request, other)
    assert ForgetFacts.of(again).removed == 2


def test_what_depends_on_all_pairs_is_replayed_from_the_first_step(lab):
    """The merges of a vocabulary of the captions change with one of them, and so do all weights."""
    config = lab.config(vocab_size=300)
    base = lab.train(config, lab.pack())
    _, dataset = lab.take_down([late_pair(lab, base, config)])
    replayed, reference = lab.replay(base, dataset, vocab_size=300)
    assert weights(replayed) == weights(reference)
    assert ForgetFacts.of(replayed).step == 0
    assert "held out" in find_reason(lab.config(holdout=0.2), PAIRS)
    assert "rollback" in find_reason(lab.config(max_bad_steps=1, max_rollbacks=1), PAIRS)


def test_what_is_computed_from_the_first_phase_leaves_the_later_ones_their_checkpoints(lab, monkeypatch):
    monkeypatch.setattr("plugins.forget.replay.list_computing", lambda config: ["start"])
    config = lab.config(forget={"phases": 3, "checkpoints": 12})
    base = lab.train(config, lab.pack())
    starts = make_plan(config, 0, load_base(lab.store, base.key).places).phase_steps
    for pair, step, why in (
        (29, starts[2], ""),
        (11, starts[1], ""),
        (9, 0, "start read all pairs of the first phase"),
    ):
        _, dataset = lab.take_down([pair])
        again = lab.config(forget={"phases": 3, "checkpoints": 12, "base": base.key})
        left = read_places(lab.store, dataset)
        made, places = plan_replay(again, load_base(lab.store, base.key), dataset, left, lab.store)
        assert made.step == step
        assert made.why.startswith(why)
        places.write(lab.folder / FILE)
        sizes = np.bincount(np.arange(PAIRS)[~places.removed] // EACH)
        for of_dataset in (sizes, sizes[sizes > 0]):
            found = count_start_shards(
                SimpleNamespace(train=config, output=lab.folder), SimpleNamespace(sizes=of_dataset)
            )
            assert of_dataset[:found].sum() == (~places.removed)[: 2 * EACH].sum()


def test_a_pair_of_the_last_phase_is_forgotten_by_frozen_towers_after_least_squares(lab):
    """The start and the mean of the captions are of the first phase, and the changed shard gets new features."""
    made = pytest.importorskip("plugins.towers.tests.made_towers")
    networks, name = pytest.importorskip("plugins.towers.networks.efficientnet"), "efficientnet_lite0"
    image = {"kind": "backbone", "architecture": name, "image_size": 32, "mean": (0, 0, 0), "std": (1, 1, 1)}
    save_file(networks.build(BackboneConfig(**image)).state_dict(), lab.folder / "net.safetensors")
    made.write_bert(lab.folder / "bert")
    text = made.table_of(lab.folder / "bert", kind="bert")
    settings = {
        "image_init": made.table_of(lab.folder / "net.safetensors", architecture=name, frozen=True),
        "text_init": {**text, "centred": True, "projector_layers": 0, "projector_norm": False},
        "start": "least_squares", "start_ridge": 0.1, "epochs": 1, "forget": {"phases": 2, "checkpoints": 1},
    }  # fmt: skip
    base = lab.train(lab.config(**settings), lab.pack())
    _, dataset = lab.take_down([PAIRS - 2])
    replayed, reference = lab.replay(base, dataset, **settings)
    assert weights(replayed) == weights(reference) != weights(base)
    starts = make_plan(lab.config(**settings), 0, load_base(lab.store, base.key).places).phase_steps
    assert [ForgetFacts.of(one).step for one in (replayed, reference)] == [starts[1], 0]


def test_what_cannot_be_replayed_is_refused_before_it_costs(lab):
    first = lab.pack()
    base = lab.train(lab.config(), first)
    plain = lab.train(lab.config(forget=None), first)  # it keeps nothing, and its dataset knows the order
    _, dataset = lab.take_down([late_pair(lab, base, lab.config())])
    known, left = load_base(lab.store, base.key), read_places(lab.store, dataset)

    def refuse(match, config, base=known, left=left):
        with pytest.raises(ConfigError, match=match):
            plan_replay(config, base, dataset, left, lab.store)

    again = lab.config(forget={"base": base.key})
    refuse("another lr; a replay has the config", lab.config(lr=1.0, forget={"base": base.key}))
    changed = replace(left, contents=np.append(left.contents[1:], np.uint64(0)))
    refuse("1 pairs of the dataset differ", again, known, changed)
    with pytest.raises(ConfigError, match="it was trained with the seed 0, and this is 1"):
        make(plan(TRAIN, again, 1, [dataset], lab.store), Context(lab.store, lab.folder / "home"))
    refuse("another forget.phases", lab.config(forget={"base": base.key, "phases": 2}))
    refuse("has 1 pairs that the base was not trained on", again, replace(known, places=left), known.places)
    with pytest.raises(ConfigError, match="no complete training train/0000000000000000"):
        load_base(lab.store, "0" * 16)
    with pytest.raises(ConfigError, match="6 shards cannot be dealt to 7 phases"):
        prepare_job(lab.config(forget={"phases": 7}), lab.store, [dataset], lab.folder)

    here = dict(known.facts.environments[0])
    check_environments(known.facts.environments, here)
    for name in ("torch", "processor"):
        with pytest.raises(ConfigError, match=re.escape(f"{here[name]}, and this is another: a replay")):
            check_environments(known.facts.environments, here | {name: "another"})

    file = base.path("forget-places.parquet")
    kept = lab.store.read(file)
    lab.store.delete([file])
    np.testing.assert_array_equal(load_base(lab.store, base.key).places.keys, known.places.keys)
    lab.store.put(file, kept)
    made, places = plan_replay(again, load_base(lab.store, plain.key), dataset, left, lab.store)
    assert (made.step, made.removed, int(places.removed.sum())) == (0, 1, 1)
    assert "it keeps none" in made.why
    lab.store.delete([*lab.store.names(f"pack/{first.key}")])
    with pytest.raises(ConfigError, match="is not known: there is no file forget-places"):
        load_base(lab.store, plain.key)
    assert plan_replay(again, load_base(lab.store, base.key), dataset, left, lab.store)[0].removed == 1

    damaged = next(part for part in base.parts if part.name.endswith("optimizer.safetensors"))
    lab.store.put(base.path(damaged.name), bytes(damaged.bytes))
    with pytest.raises(ConfigError, match=r"optimizer.safetensors of its checkpoint .* is damaged; --from-start"):
        lab.train(again, dataset)
    lab.store.delete([base.path(part.name) for part in base.parts if part.name.endswith("optimizer.safetensors")])
    made, _ = plan_replay(again, load_base(lab.store, base.key), dataset, left, lab.store)
    assert made.step == 0
    assert "are gone" in made.why


def test_the_command_names_what_it_cannot_do(lab, monkeypatch):
    monkeypatch.setenv("PAIRMILL_HOME", str(lab.folder / "home"))
    base = lab.train(lab.config(), lab.pack())
    request, _ = lab.take_down([7])
    unrelated = make_request([Target("uid", "f" * 32)], "")
    record_request(lab.store, unrelated)
    state = StageRun(stage="train", key=base.key, state="Completed")
    record = RunRecord(run_id="run-1", name="run", created_at="", config={}, stages=[state])
    record.save(lab.store)
    remember_store("run-1", lab.store, lab.folder / "home")
    with pytest.raises(ConfigError, match="there is no takedown request 0000"):
        command("run-1", request=("0" * 16,))
    with pytest.raises(ConfigError, match="names no pair that it was trained on"):
        command("run-1", request=(unrelated.digest,))
    with pytest.raises(ConfigError, match="there is no run 'run-2'"):
        command("run-2", request=(request,))
    assert command("run-1", json=True) == 0


def test_a_card_names_what_is_forgotten():
    assert describe_forgotten(build_manifest("train")) == []
    facts = {"forget": {"base": "b" * 16, "removed": 2, "step": 5, "steps": 9, "forgotten": ["a" * 16]}}
    (section,) = describe_forgotten(build_manifest("train", facts=facts))
    assert section.rows == [["a" * 16, "forgotten exactly"]]
    assert "2 places" in section.sentences[0]
