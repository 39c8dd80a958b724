import numpy as np
import pytest

from dataops.images.near_duplicates import (
    find_clusters,
    find_connected,
    has_neighbour,
    plan_searches,
)

DISTANCES = [0, 1, 3, 6, 10, 16]


def synthetic_hashes(seed, count):
    """Return hashes around a few centres, with 0 to 12 flipped bits."""
    random = np.random.default_rng(seed)
    centres = random.integers(0, 2**64, 5, np.uint64)
    result = centres[random.integers(0, 5, count)]
    for _ in range(12):
        flips = np.uint64(1) << random.integers(0, 64, count).astype(np.uint64)
        result = np.where(random.random(count) < 0.3, result ^ flips, result)
    return result


def brute_force_clusters(hashes, groups, thumbnails, distance, tolerance):
    """Compare each row with each; propagate the smallest label until nothing changes."""
    label, changed = list(range(len(hashes))), True
    apart = np.abs(thumbnails[:, None].astype(int) - thumbnails[None].astype(int)).max(axis=2, initial=0)
    while changed:
        changed = False
        for i in range(len(hashes)):
            for j in range(i):
                near = (int(hashes[i]) ^ int(hashes[j])).bit_count() <= distance and apart[i, j] <= tolerance
                if near and groups[i] == groups[j] and label[i] != label[j]:
                    label[i] = label[j] = min(label[i], label[j])
                    changed = True
    return label


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("seed", range(3))
def test_find_clusters_equals_brute_force(seed, distance):
    random = np.random.default_rng(seed)
    hashes, groups = synthetic_hashes(seed, 120), random.integers(0, 1 + seed, 120)
    thumbnails = random.integers(0, 12, (120, 3), np.uint8)
    for tolerance in (255, 6):
        expected = brute_force_clusters(hashes, groups, thumbnails, distance, tolerance)
        assert find_clusters(hashes, groups, thumbnails, distance, tolerance).tolist() == expected
    assert len(set(brute_force_clusters(hashes, groups, thumbnails, 6, 6))) < 120


@pytest.mark.parametrize("distance", [1, 6, 16])
def test_block_searches_together_find_what_one_search_finds(distance):
    random = np.random.default_rng(distance)
    hashes, groups = synthetic_hashes(4, 200), random.integers(0, 2, 200)
    thumbnails, searches = random.integers(0, 9, (200, 2), np.uint8), plan_searches(distance)
    apart = hashes[:, None] ^ hashes[None]
    near = (np.bitwise_count(apart) <= distance) & (groups[:, None] == groups[None])
    near &= ~np.eye(200, dtype=bool)
    assert (has_neighbour(hashes, groups, distance) == near.any(axis=1)).all()
    pairs = []
    for block in searches:
        here = near & (apart & np.uint64(block.shared) == 0)
        for mask in block.before:
            here &= apart & np.uint64(mask) != 0
        assert (has_neighbour(hashes, groups, distance, block) == here.any(axis=1)).all()
        found = find_clusters(hashes, groups, thumbnails, distance, 5, block)
        pairs.append(np.stack([np.arange(200), found]))
    combined = find_connected(200, *np.concatenate(pairs, axis=1))
    assert (combined == find_clusters(hashes, groups, thumbnails, distance, 5)).all()
