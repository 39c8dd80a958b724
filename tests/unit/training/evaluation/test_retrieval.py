"""Ranks, compared with a full matrix that is sorted row by row."""

import pytest
import torch

from training.evaluation.retrieval import rank_best_matches


def naive(query, gallery, first, last):
    scores = (query @ gallery.T).tolist()
    ranks = []
    for row, low, high in zip(scores, first, last, strict=True):
        order = sorted(range(len(row)), key=lambda item: (-row[item], item))
        ranks.append(1 + min(order.index(item) for item in range(low, high)))
    return ranks


@pytest.fixture
def pairs():
    generator = torch.Generator().manual_seed(5)
    captions_of = torch.randint(1, 5, (60,), generator=generator).tolist()
    images = torch.nn.functional.normalize(torch.randn(60, 8, generator=generator), dim=-1)
    owner = torch.repeat_interleave(torch.arange(60), torch.tensor(captions_of))
    noise = torch.randn(len(owner), 8, generator=generator)
    captions = torch.nn.functional.normalize(images[owner] + 0.5 * noise, dim=-1)
    last = torch.tensor(captions_of).cumsum(0).tolist()
    return images, captions, [b - n for b, n in zip(last, captions_of, strict=True)], last, owner.tolist()


@pytest.mark.parametrize("at_once", [1, 500, 1 << 22])
@pytest.mark.parametrize("threads", [1, 3])
def test_chunked_ranks_equal_those_of_the_full_matrix(pairs, at_once, threads):
    images, captions, first, last, owner = pairs
    to_text = rank_best_matches(images, captions, first, last, threads, at_once)
    assert to_text == naive(images, captions, first, last)
    to_image = rank_best_matches(captions, images, owner, [i + 1 for i in owner], threads, at_once)
    assert to_image == naive(captions, images, owner, [i + 1 for i in owner])
    assert 1 in to_text
    assert max(to_image) > 1


def test_memory_is_bounded_by_a_chunk(monkeypatch):
    """Rank a gallery of 20,000 against itself with a bounded number of scores at once; the full matrix has 400 million."""
    largest = 0
    product = torch.Tensor.__matmul__

    def watched(left, right):
        nonlocal largest
        scores = product(left, right)
        largest = max(largest, scores.numel())
        return scores

    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    features = torch.nn.functional.normalize(torch.randn(20_000, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    first = list(range(0, 200))
    assert len(rank_best_matches(features[:200], features, first, [i + 1 for i in first], 1, 1 << 20)) == 200
    assert 0 < largest <= 1 << 20
