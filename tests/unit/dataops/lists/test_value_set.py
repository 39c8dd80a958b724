"""Sets of 128-bit values answer as Python's own sets do, also for values with an equal half."""

import numpy as np

from dataops.lists.value_set import ValueSet, digest_values, parse_values, sort_values


def test_contains_what_a_python_set_contains():
    generator = np.random.default_rng(3)
    values = generator.integers(0, 6, (40, 2), np.uint64)  # many equal halves
    values[::7] += np.uint64(2**63)
    listed = sort_values(values[:20])
    oracle = set(map(tuple, values[:20].tolist()))
    assert set(map(tuple, listed.tolist())) == oracle
    assert len(ValueSet(listed)) == len(oracle)
    assert ValueSet(listed).contains(values).tolist() == [tuple(value) in oracle for value in values.tolist()]


def test_digest_depends_on_the_values_and_not_on_their_order():
    values = parse_values(bytes(range(48)))
    assert values[0].tolist() == [0x0001020304050607, 0x08090A0B0C0D0E0F]
    shuffled = np.concatenate([values[::-1], values[:1]])
    assert digest_values(sort_values(shuffled)) == digest_values(sort_values(values))
    assert digest_values(sort_values(values[:2])) != digest_values(sort_values(values))
