"""Shards, the order of samples, captions, and random numbers."""

import io
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dataops.errors import ContractError
from tests.tar_files import write_tar
from tests.trainings import png
from training.config import TrainConfig
from training.data.keyed_random import draw_permutation, draw_uniforms
from training.data.loader import Dataset, Skipped, load_batches
from training.data.sampling_plan import Plan
from training.model.preprocess import decode_rgb


@given(
    samples=st.integers(8, 300),
    batch_size=st.integers(8, 64),
    ranks=st.integers(1, 4),
    seed=st.integers(-(2**63), 2**63 - 1),
)
def test_each_sample_is_seen_once_an_epoch_by_any_number_of_ranks(samples, batch_size, ranks, seed):
    plan = Plan(samples, TrainConfig(epochs=2, batch_size=batch_size), seed)
    alone = [plan.batch(step, 0, 1) for step in range(1, plan.total_steps + 1)]
    sizes = [len(indices) for _, indices in alone]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    for epoch in range(2):
        samples_of_epoch = np.concatenate([indices for e, indices in alone if e == epoch])
        assert sorted(samples_of_epoch.tolist()) == list(range(samples))
    for step, (epoch, indices) in enumerate(alone, 1):
        parts = [plan.batch(step, rank, ranks) for rank in range(ranks)]
        assert {part[0] for part in parts} == {epoch}
        assert np.concatenate([part[1] for part in parts]).tolist() == indices.tolist()
        assert plan.samples_seen(step) == sum(sizes[:step])


def test_random_numbers_equal_the_recorded_ones():
    """Compare with recorded numbers, on which the order and augmentation of every earlier model depend."""
    assert draw_permutation(0, 0, 8).tolist() == [0, 5, 3, 2, 6, 7, 1, 4]
    assert draw_uniforms("augment", 3, 2, np.array([0, 7]), 2).round(12).tolist() == [
        [0.063855573629, 0.041644437624],
        [0.394958415385, 0.131793214475],
    ]


def test_members_are_paired_by_key(tmp_path):
    long = "folder/" + "k" * 150
    members = {"a.txt": b" one ", "a.PNG": png((8, 9)), "b.png": png((8, 8)), f"{long}.webp": b"?", f"{long}.txt": b"x"}
    members |= {"c.json": b"{}", "c.txt": b"  ", "c.jpg": png((8, 8)), "d.jpg": png((8, 8)), "d.txt": b"\xff"}
    dataset = Dataset([write_tar(tmp_path / "0.tar", members)], 8, 10_000)
    assert len(dataset) == 4
    assert dataset.skipped == [Skipped("0.tar", "b", "no txt member")]
    pixels, caption = dataset.load(0)
    assert (pixels.shape, caption) == ((9, 8, 3), "one")
    reasons = [dataset.load(sample) for sample in (1, 2, 3)]
    assert [r.key for r in reasons if isinstance(r, Skipped)] == [long, "c", "d"]
    assert list(dataset.captions()) == ["one", "x"]
    dataset.close()


def test_a_shard_cut_while_it_is_read_raises_contract_error(tmp_path):
    path = write_tar(tmp_path / "0.tar", {"a.png": png((64, 64)), "a.txt": b"one"})
    dataset = Dataset([path], 8, 0)
    with path.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(ContractError, match="cut"):
        dataset.load(0)
    dataset.close()


def test_cache_and_workers_change_nothing(shards):
    def all_batches(cache_bytes, workers):
        config = TrainConfig(epochs=2, batch_size=10, workers=workers, prompts=("{}", "an emoji, {}"), word_dropout=0.3)
        dataset = Dataset(shards, 32, cache_bytes)
        plan = Plan(len(dataset), config, 0)
        batches = [
            (b.epoch, b.samples.tolist(), b.pixels_BSS3.tobytes(), b.captions)
            for b in load_batches(dataset, plan, 2, 0, 1)
        ]
        dataset.close()
        return batches

    expected = all_batches(0, 0)
    assert len(expected) == 5
    assert all_batches(40_000, 2) == expected
    assert all_batches(10**9, 4) == expected


def test_prompts_and_word_dropout_are_drawn_at_random(shards):
    config = TrainConfig(epochs=40, batch_size=25, prompts=("{}", "so: {braces} {}"), word_dropout=0.5)
    dataset = Dataset(shards, 32, 10**7)
    counts = Counter()
    for batch in load_batches(dataset, Plan(25, config, 0), 1, 0, 1):
        counts.update(batch.captions[batch.samples.tolist().index(3)].split())
    dataset.close()
    assert 10 <= counts["so:"] <= 30
    for word in ["a", "pale", "thing", "3"]:
        assert 10 <= counts[word] <= 32, counts


def test_transparent_images_become_white():
    for image in (Image.new("RGBA", (9, 9), (255, 0, 0, 0)), Image.new("LA", (9, 9), (0, 0))):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        assert decode_rgb(buffer.getvalue()).getpixel((4, 4)) == (255, 255, 255)
