"""Unreadable samples are counted over all ranks; the other rank is simulated."""

from dataclasses import asdict
from types import SimpleNamespace

import pytest

from dataops.errors import ContractError
from training import distributed
from training.data.loader import Skipped
from training.loop.step_recorder import agree
from training.loop.training_run import SkippedSamples


def sample(number):
    return Skipped("0.tar", str(number), "damaged")


INPUTS = SimpleNamespace(tokens=5, padded=9)


class Data(list[int]):
    skipped = (sample(0),)


def test_the_limit_is_that_of_all_ranks(monkeypatch):
    """99 samples and one without an image; each rank finds two more, one of which both find."""
    others = [sample(2), sample(3)]
    monkeypatch.setattr(distributed, "gather_objects", lambda own: [own, [asdict(each) for each in others]])
    for limit, fails in ((0.04, False), (0.039, True)):
        dataset = Data(range(99))
        skipped = SkippedSamples(dataset, limit)
        batch = SimpleNamespace(skipped=[sample(1), sample(2)], captions=["a"], inputs=INPUTS, step=1)
        run = SimpleNamespace(skipped=skipped, stop_requested=False, step=0)
        if fails:
            with pytest.raises(ContractError, match=r"4 of 100 samples cannot be read, more than max_skipped = 0.039"):
                agree(run, batch)
            continue
        assert agree(run, batch).pairs_of_ranks == [1]
        assert [each["key"] for each in skipped.gather()] == ["0", "1", "2", "3"]
        assert skipped.add(batch) == 0, "those that another rank found are not new"


def test_ranks_agree_on_pairs_and_stops(monkeypatch):
    dataset = Data(range(99))
    run = SimpleNamespace(skipped=SkippedSamples(dataset, 1.0), stop_requested=False, step=4)
    batch = SimpleNamespace(skipped=[], captions=["a", "b"], inputs=INPUTS, step=5)
    for other, expected in (([3, 6, 1, 1, 0], ([2, 3], 11, 10, True)), ([3, 6, 1, 0, 0], ([2, 3], 11, 10, False))):
        monkeypatch.setattr(distributed, "gather_integers", lambda own, other=other: [own, other])
        assert agree(run, batch) == expected
    monkeypatch.setattr(distributed, "gather_integers", lambda own: [own, [0, 0, 0, 0, 0]])
    with pytest.raises(ContractError, match="no sample of step 5 can be read on rank 1"):
        agree(run, batch)
