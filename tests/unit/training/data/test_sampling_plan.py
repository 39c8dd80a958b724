"""The probability of each pair, and that draws depend on seed, epoch and uid alone."""

import numpy as np
import xxhash

from dataops.digest import canonical_json
from dataops.schema import uid
from tests.tar_files import write_tar
from tests.trainings import jpeg
from training.config import TrainConfig
from training.data.epoch_order import Sampling
from training.data.loader import Dataset, Skipped
from training.data.sampling_plan import Plan

PAIRS = 500


def sampling(seed=0):
    numbers = np.random.default_rng(seed)
    chances = numbers.random(PAIRS)
    chances[::5] = 1
    chances[1::50] = 0
    return Sampling(chances, numbers.integers(0, 2**64, PAIRS, np.uint64))


def epochs_of(plan):
    """Return the samples of each epoch, step by step."""
    epochs = [[] for _ in range(plan.config.epochs)]
    for step in range(1, plan.total_steps + 1):
        epoch, indices = plan.batch(step, 0, 1)
        assert plan.smallest_batch <= len(indices)
        epochs[epoch] += indices.tolist()
    return epochs


def test_each_pair_is_drawn_with_its_probability():
    sampled = sampling()
    epochs = epochs_of(Plan(PAIRS, TrainConfig(epochs=400, batch_size=32), 3, sampled))
    assert all(len(set(epoch)) == len(epoch) for epoch in epochs), "never twice in an epoch"
    share = np.bincount(np.concatenate(epochs), minlength=PAIRS) / 400
    assert (share[sampled.probabilities == 1] == 1).all()
    assert (share[sampled.probabilities == 0] == 0).all()
    spread = np.sqrt(sampled.probabilities * (1 - sampled.probabilities) / 400)
    assert (abs(share - sampled.probabilities) <= 4.5 * spread).all()
    assert abs((share - sampled.probabilities).sum()) < 4.5 * np.sqrt((spread**2).sum())


def test_a_draw_depends_on_the_pair_and_not_on_its_position():
    sampled, order = sampling(), np.random.default_rng(9).permutation(PAIRS)
    moved = Sampling(sampled.probabilities[order], sampled.identities[order])
    for epoch in range(3):
        assert (moved.drawn(0, epoch) == sampled.drawn(0, epoch)[order]).all()
    assert (sampled.drawn(0, 0) != sampled.drawn(0, 1)).any()
    assert (sampled.drawn(0, 0) != sampled.drawn(1, 0)).any()


def rows(probabilities):
    members = []
    for key, chance in probabilities.items():
        row = canonical_json({"key": key, "uid": uid(key, "x"), "sampling_probability": chance}).encode()
        members += [(f"{key}.jpg", jpeg(0)), (f"{key}.txt", b"a thing"), (f"{key}.json", row)]
    return members


def test_the_loader_reads_probabilities_from_the_shards(tmp_path):
    probabilities = {"a": 0.25, "b": None, "c": 1.0, "d": 1.5, "e": "often"}
    foreign = [("f.jpg", jpeg(0)), ("f.txt", b"a thing"), ("f.json", b'{"similarity": NaN}')]
    unnamed = [("g.jpg", jpeg(0)), ("g.txt", b"a thing"), ("g.json", b'{"sampling_probability": 0.5}')]
    dataset = Dataset([write_tar(tmp_path / "0.tar", rows(probabilities) + foreign + unnamed)], 32, 0)
    sampled = dataset.index.sampling
    assert sampled.probabilities.tolist() == [0.25, 1, 1, 1, 0.5]
    known = [xxhash.xxh3_64_intdigest(text.encode()) for text in (uid("a", "x"), "g")]
    assert sampled.identities[[0, 4]].tolist() == known
    assert [(item.key, item.reason.startswith("json member: ")) for item in dataset.skipped] == [
        ("d", True),
        ("e", True),
    ]
    assert all(isinstance(item, Skipped) for item in dataset.skipped)
    dataset.close()
    dataset = Dataset([write_tar(tmp_path / "1.tar", rows({"b": None, "c": 1.0}) + foreign)], 32, 0)
    assert dataset.index.sampling is None
    dataset.close()
