"""Pairs that are held out: never trained on, like nothing that is trained on, and what follows from their curve."""

import json
import math
import os
import signal
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn import functional as F

import training.loop.interim_evaluation as interim_module
from dataops.errors import ConfigError
from tests.tar_files import write_tar
from tests.trainings import before_step, output_of, outputs_of, run_training, stop_at
from training.config import TrainConfig
from training.data.loader import Dataset
from training.data.sample_index import build_index, fingerprint_shards, open_index
from training.data.sampling_plan import Plan
from training.data.shard_files import ShardFiles
from training.loop.health import LOSS, RECALL, HoldOut
from training.loop.interim_evaluation import LOSS_PAIRS, contrastive_loss

pytestmark = pytest.mark.usefixtures("process_state")

TURNING = {"epochs": 12, "lr": 3e-3, "holdout": 0.2, "evaluate_every": 2}
"""A training whose loss on the hold-out falls and rises again."""


def write_rows(path, rows):
    members = []
    for number, row in enumerate(rows):
        known = {name: row[name] for name in ("cluster", "phash", "sha256") if row.get(name) is not None}
        members += [(f"{path.stem}{number:04d}.jpg", row["image"]), (f"{path.stem}{number:04d}.txt", row["caption"])]
        members.append((f"{path.stem}{number:04d}.json", json.dumps(known).encode()))
    return write_tar(path, members)


def index_of(shards, share):
    files, folder = ShardFiles(shards, {}), shards[0].with_suffix(".index")
    fingerprint = fingerprint_shards(files, {}, blur_faces=False, holdout=share)
    build_index(folder, files, fingerprint, blur_faces=False, workers=0, holdout=share)
    index = open_index(folder, fingerprint)
    return index


def split(index):
    """Return the samples that are trained on, and those that are measured."""
    return set(index.without_held(range(len(index)))), set(index.measured.tolist())


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "image": st.integers(0, 30).map(lambda n: b"image %d" % n),
            "caption": st.integers(0, 40).map(lambda n: (b"A caption %d" if n % 2 else b"a  CAPTION %d ") % (n // 2)),
        },
        optional={
            "cluster": st.none() | st.integers(0, 20).map(str),
            "phash": st.none() | st.integers(0, 30).map(str),
            "sha256": st.integers(0, 30).map(str),
        },
    ),
    min_size=5,
    max_size=40,
)


def links_of(row):
    links = {(name, row[name]) for name in ("cluster", "phash", "sha256") if row.get(name)}
    links |= set() if links else {("image", row["image"])}
    return {*links, ("caption", b" ".join(row["caption"].lower().split()))}


@given(first=ROWS, second=ROWS, share=st.sampled_from([0.05, 0.2]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_measured_pair_is_like_a_trained_one_and_none_changes_sides_when_a_dataset_grows(
    tmp_path, first, second, share
):
    shards = [write_rows(tmp_path / f"{name}.tar", rows) for name, rows in (("a", first), ("b", second))]
    before, after = (index_of(some, share) for some in (shards[:1], shards))
    for index, rows in ((before, first), (after, first + second)):
        trained, measured = split(index)
        seen = set().union(*(links_of(rows[sample]) for sample in trained)) if trained else set()
        for sample in measured:
            assert seen.isdisjoint(links_of(rows[sample]))
            seen |= links_of(rows[sample])  # nor like another measured one
    old = range(len(first))
    assert split(before)[0] == split(after)[0] & set(old)
    assert split(after)[1] & set(old) <= split(before)[1]


def test_the_share_is_that_of_the_config_and_no_epoch_has_a_held_out_pair(tmp_path):
    rows = [{"image": b"", "caption": b"thing %d" % n, "phash": f"{n:016x}"} for n in range(6000)]
    rows += [{"image": b"", "caption": b"THING  0", "phash": "ffff"}]  # like the first by its caption
    shards = [write_rows(tmp_path / f"{n}.tar", rows[n::4]) for n in range(4)]
    index = index_of(shards, 0.02)
    trained, measured = split(index)
    assert len(rows) - len(trained) == pytest.approx(120, abs=4 * math.sqrt(120))
    assert len(measured) == pytest.approx(len(rows) - len(trained), abs=1)
    assert index_of(shards, 0.0).columns.keys() == {"shards", "spans", "keys", "skipped"}
    for ranks, at_once in ((1, 0), (3, 2)):
        config = TrainConfig(epochs=3, batch_size=500, shuffle_shards=at_once)
        plan = Plan(len(index), config, 0, index.sampling, index.windows(at_once))
        visits = [plan.batch(step, rank, ranks) for step in range(1, plan.total_steps + 1) for rank in range(ranks)]
        for epoch in range(3):
            seen = np.concatenate([samples for of_epoch, samples in visits if of_epoch == epoch])
            assert sorted(seen.tolist()) == sorted(trained)
    dataset = Dataset(shards, 32, 0, index=index)
    assert len(list(dataset.captions())) == len(trained), "the vocabulary is learnt from them, too"


def test_best_model_and_early_end_are_the_same_after_a_stop_anywhere(make_job, monkeypatch, caplog):
    plain = make_job("plain", **TURNING, keep_checkpoints=99)
    early = make_job("early", **TURNING, keep="best", patience=4)
    with caplog.at_level("WARNING"):
        assert [run_training(job) for job in (plain, early)] == [0, 0]
    curves = [read_curve(job) for job in (plain, early)]
    lowest = min(curves[0], key=lambda row: row[LOSS])
    turned = [record.getMessage() for record in caplog.records if "rises since step" in record.getMessage()]
    assert f"since step {lowest['step']:.0f}," in turned[-1]
    assert curves[1] == curves[0][: curves[0].index(lowest) + 5]
    kept = output_of(plain) / "checkpoints" / f"step-{lowest['step']:06.0f}" / "model.safetensors"
    assert weights(early) == torch_file(kept) != weights(plain)
    done = json.loads((output_of(early) / "done.json").read_text())
    assert (done["steps"], done["holdout"]["kept_step"]) == (curves[1][-1]["step"], lowest["step"])
    assert done["holdout"]["ended_early"]

    stopped = make_job("stopped", **TURNING, keep="best", patience=4, keep_checkpoints=1)
    for step in (3, int(lowest["step"]), int(lowest["step"]) + 1, done["steps"] - 1):
        with monkeypatch.context() as patch:
            before_step(patch, stop_at(step))
            assert run_training(stopped) == 75
    with monkeypatch.context() as patch:  # in a measurement, of which no row is kept
        patch.setattr(interim_module, "contrastive_loss", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        assert run_training(stopped) == 75
    assert run_training(stopped) == 0
    assert outputs_of(stopped) == outputs_of(early)
    assert read_curve(stopped) == curves[1]


def test_a_training_without_a_holdout_keeps_its_key():
    assert not {"holdout", "keep", "patience", "evaluate_every"} & TrainConfig().key_config().keys()
    assert TrainConfig(keep="best").key_config().items() >= {"keep": "best", "evaluate_every": 0}.items()


def test_what_a_holdout_cannot_do_is_said_before_the_training(make_job, caplog):
    assert TrainConfig().with_holdout(20_001).holdout == 0.005
    assert TrainConfig().with_holdout(20_000).holdout is None
    assert TrainConfig(holdout=0.1).with_holdout(10).holdout == 0.1
    with pytest.raises(ConfigError, match="set holdout, such as"):
        TrainConfig(patience=3).with_holdout(20_000)
    for wrong in ({"holdout": 0, "keep": "best"}, {"holdout": 0.1, "shard_cache_bytes": 1, "shuffle_shards": 1}):
        with pytest.raises(ValidationError, match=r"set (holdout above 0|shard_cache_bytes = 0)"):
            TrainConfig.model_validate(wrong)
    assert run_training(make_job("few", holdout=1e-9, keep="best")) == 2
    assert "raise holdout" in caplog.text
    assert run_training(make_job("none", epochs=1, holdout=1e-9)) == 0
    assert run_training(make_job("far", **TURNING | {"lr": 1e30, "evaluate_every": 1}, warmup=0)) == 4
    assert "step 1: the model gives image features that are not finite" in caplog.text


@pytest.mark.parametrize("bias", [None, -2.0])
def test_loss_is_the_mean_of_batches_of_one_size(bias):
    generator = torch.Generator().manual_seed(0)
    images, texts = (F.normalize(torch.randn(2 * LOSS_PAIRS + 5, 8, generator=generator), dim=1) for _ in range(2))
    scale, expected = torch.tensor(7.0), 0.0
    for first, end in pairwise((0, LOSS_PAIRS, 2 * LOSS_PAIRS)):
        logits = 7.0 * images[first:end] @ texts[first:end].T
        for row in range(LOSS_PAIRS):
            for column in range(LOSS_PAIRS) if bias is not None else ():
                signed = (1 if row == column else -1) * (float(logits[row, column]) + (bias or 0))
                expected += math.log1p(math.exp(-signed))
            if bias is None:
                both = logits[row], logits[:, row]
                expected += sum(float(one.logsumexp(0) - one[row]) for one in both) / 2
    found = contrastive_loss(images, texts, scale, None if bias is None else torch.tensor(bias))
    assert found == pytest.approx(expected / (2 * LOSS_PAIRS), rel=1e-5)
    assert HoldOut(np.arange(3), TrainConfig(), 100).is_due(5)


def read_curve(job):
    rows = [json.loads(line) for line in (output_of(job) / "holdout.jsonl").read_text().splitlines()]
    assert all(row.keys() == {"step", LOSS, RECALL} and 0 <= row[RECALL] <= 1 for row in rows)
    return rows


def torch_file(path):
    return path.read_bytes().partition(b"}}")[2]  # without the header, whose metadata differ


def weights(job):
    return torch_file(output_of(job) / "model.safetensors")
