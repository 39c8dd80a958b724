"""The choice of one caption a visit: against a slow reference, for any ranks, from any step, and in the right shares."""

import json
from fractions import Fraction

import numpy as np
import pytest

from tests.tar_files import write_tar
from tests.trainings import png
from training.config import TrainConfig
from training.data.keyed_random import draw_uniforms
from training.data.loader import Dataset, load_batches
from training.data.sampling_plan import Plan

WEIGHTS = {"alt": 1.0, "keywords": 0.5, "synthetic": 0.25, "title": 0.0}
ROWS = [
    {"caption_source": "alt", "captions": None},
    {"caption_source": "alt", "captions": [("keywords", "k1"), ("synthetic", "s1"), ("synthetic", "s2")]},
    {"caption_source": "title", "captions": [("keywords", "k2"), ("title", "t2")]},
    {"caption_source": "title", "captions": [("title", "t3")]},
    {"caption_source": "pair_list", "captions": [("synthetic", "s4"), ("pair_list", "p4"), ("alt", " ")]},
    {},
]
OWN = [f"own {number}" for number in range(len(ROWS))]


def as_json(row):
    listed = [{"caption_source": kind, "caption": text, "uid": "0" * 32} for kind, text in row.get("captions") or ()]
    return json.dumps({**row, "captions": listed} if row.get("captions") else row).encode()


@pytest.fixture(scope="module")
def tar(tmp_path_factory):
    members = {}
    for number, row in enumerate(ROWS):
        members |= {f"{number}.png": png((8, 8)), f"{number}.txt": OWN[number].encode()}
        members |= {f"{number}.json": as_json(row)} if row else {}
    return write_tar(tmp_path_factory.mktemp("shards") / "0.tar", members)


def choose_slowly(number, draws):
    """Choose as documented, with exact fractions."""
    row = ROWS[number]
    texts = [
        (row.get("caption_source") or "", OWN[number]),
        *((k, t) for k, t in row.get("captions") or () if t.strip()),
    ]
    shares = {kind: Fraction(WEIGHTS.get(kind, 1.0)) for kind, _ in texts}
    total = sum(shares.values())
    if total == 0:
        return OWN[number]
    left = Fraction(float(draws[0])) * total
    for kind in sorted(shares):
        if left < shares[kind]:
            of_kind = [text for other, text in texts if other == kind]
            return of_kind[int(Fraction(float(draws[1])) * len(of_kind))]
        left -= shares[kind]
    raise AssertionError("the shares do not add up")


def seen_captions(tar, ranks, first_step=1, workers=0):
    """Return the caption of each sample in each epoch."""
    dataset = Dataset([tar], 8, 0, caption_weights=WEIGHTS)
    config = TrainConfig(epochs=60, batch_size=4, workers=workers, captions=WEIGHTS)
    plan, found = Plan(len(dataset), config, 7), {}
    for rank in range(ranks):
        for batch in load_batches(dataset, plan, first_step, rank, ranks):
            found |= {(batch.epoch, int(s)): c for s, c in zip(batch.samples, batch.captions, strict=True)}
    dataset.close()
    return found


def test_choice_equals_a_slow_reference_for_any_ranks_threads_and_first_step(tar):
    found = seen_captions(tar, 1)
    assert len(found) == 60 * len(ROWS)
    for (epoch, sample), caption in found.items():
        assert caption == choose_slowly(sample, draw_uniforms("choice", 7, epoch, np.array([sample]), 2)[0])
    assert seen_captions(tar, 3) == seen_captions(tar, 2, workers=2) == found
    resumed = seen_captions(tar, 1, first_step=41)
    assert resumed == {at: found[at] for at in resumed}
    assert 0 < len(resumed) < len(found)


def test_without_the_table_the_caption_is_that_of_the_txt(tar):
    dataset = Dataset([tar], 8, 0)
    assert "rows" not in dataset.index.columns
    assert list(dataset.captions()) == OWN
    assert [loaded[1] for n in range(len(ROWS)) if isinstance(loaded := dataset.load(n, (0.9, 0.9)), tuple)] == OWN
    several = Dataset([tar], 8, 0, caption_weights={})
    assert list(several.captions()) == [
        "own 0", "own 1", "k1", "s1", "s2", "k2", "own 2", "t2", "own 3", "t3", "own 4", "p4", "s4", "own 5"
    ]  # fmt: skip
    for one in (dataset, several):
        one.close()


def test_a_row_that_is_not_valid_is_skipped_with_a_reason(tmp_path):
    members = {"a.png": png((8, 8)), "a.txt": b"own", "a.json": b'{"captions": [{"caption": 3}]}'}
    dataset = Dataset([write_tar(tmp_path / "0.tar", members)], 8, 0, caption_weights={})
    assert "Expected `str`, got `int`" in dataset.load(0).reason
    assert list(dataset.captions()) == []
    dataset.close()
