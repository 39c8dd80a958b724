"""Compare MinHash signatures of captions with rensa (Rust): one thread each, in CPU time.

All compute signatures of 128 hashes over the same sets of shingles, ours from the column of captions. The peer needs sets
of shingles, which Python builds; in the case `minhash sets` they are built before the measurement. It uses its
fastest call with as many hash functions. The functions differ, so outputs count as equal if each estimates the exact
Jaccard similarities of the same pairs as closely as independent trials would.
"""

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from benchmarks.cases.filter_cases import UNSPACED
from benchmarks.measure import Row, time_in_turn

HASHES = 128
CAPTIONS = 20_000
REPEATED = 10
"""Number of times that ours signs them: once is too short to measure."""
PAIRS = 2_000
_WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")


@dataclass(frozen=True)
class SignatureMethod:
    """A way to compute signatures: its input from captions, its call, and its signatures as an array (n, HASHES)."""

    name: str
    prepare: Callable[[Sequence[str]], Any]
    sign: Callable[[Any], Any]
    array: Callable[[Any], Any]


def measure_minhash(part: Path, number: int, times: int) -> tuple[list[Row], bool, str]:
    """Return rows, whether all estimates are good, and a line about them.

    Args:
        part: Parquet file with a column caption.
        number: number of captions.
        times: repetitions of each measurement.
    """
    captions = pl.read_parquet(part, columns=["caption"])["caption"].head(number).to_list()
    ours, *peers = _signers()
    for one in (ours, *peers):
        one.sign(one.prepare(captions[:100]))  # compile, and start threads
    mine, rows = ours.prepare(captions), list[Row]()

    def sign_repeatedly() -> None:
        for _ in range(REPEATED):
            ours.sign(mine)

    for peer in peers:
        theirs = peer.prepare(captions)
        whole = time_in_turn(sign_repeatedly, lambda p=peer: p.sign(p.prepare(captions)), times, time.process_time)
        signing = time_in_turn(sign_repeatedly, lambda p=peer, t=theirs: p.sign(t), times, time.process_time)
        for case, seconds, goal in (("minhash", whole, 10), ("minhash sets", signing, None)):
            speed = REPEATED * len(captions) / seconds[0], len(captions) / seconds[1]
            rows.append(Row(case, *speed, peer.name, "signatures/s", goal))
    pairs = [(text, _variant(text)) for text in captions if text.count(" ") > 2][:PAIRS]
    errors = {one.name: _error(one, pairs) for one in (ours, *peers)}
    equal = all(abs(mean) < 0.01 and spread < 1.2 for mean, spread in errors.values())
    listed = ", ".join(f"{name} {mean:+.4f}, spread {spread:.2f}" for name, (mean, spread) in errors.items())
    return rows, equal, f"minhash: errors of estimates on {len(pairs):,} pairs: {listed}; equal: {equal}"


def _signers() -> list[SignatureMethod]:
    os.environ["RAYON_NUM_THREADS"] = "1"  # rensa reads it when it starts threads
    import rensa

    from plugins.textdedup.minhash import compute_signatures

    return [
        SignatureMethod(
            "pairmill", pa.array, lambda captions: compute_signatures(captions, HASHES), lambda found: found
        ),
        SignatureMethod(
            "rensa",
            lambda captions: [make_shingles(text) for text in captions],
            lambda sets: rensa.RMinHash.digest_matrix_from_token_sets(sets, HASHES, 1),
            lambda found: np.array(found.to_rows()),
        ),
    ]


def make_shingles(text: str) -> set[str]:
    """Return sequences of three characters, as plugins.textdedup.shingles for captions without combining marks."""
    form = f" {' '.join(_WORD.findall(text.casefold()))} "
    return {form[i : i + 3] for i in range(len(form) - 2)}


def _variant(text: str) -> str:
    """Return the caption without its second word."""
    first, _, *rest = text.split()
    return " ".join([first, *rest])


def _error(one: SignatureMethod, pairs: Sequence[tuple[str, str]]) -> tuple[float, float]:
    """Return the mean error of the estimates, and their spread relative to HASHES independent trials."""
    sets = [[make_shingles(pair[side]) for pair in pairs] for side in (0, 1)]
    exact = np.array([len(a & b) / len(a | b) for a, b in zip(*sets, strict=True)])
    left, right = (one.array(one.sign(one.prepare([pair[side] for pair in pairs]))) for side in (0, 1))
    error = (left == right).mean(axis=1) - exact
    expected = exact * (1 - exact) / HASHES
    return float(error.mean()), float(np.sqrt((error**2).sum() / expected.sum()))
