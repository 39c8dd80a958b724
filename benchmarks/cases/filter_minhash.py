"""MinHash signatures of captions against datasketch and rensa: one thread each, by the processor's clock.

All make signatures of 128 hashes over the same sets of shingles, ours from the column of captions. The peers take sets of
shingles, so that a caption costs them the making of its set, in Python, too; the case `minhash sets` gives them the sets as
made before the clock starts. They are asked by the fastest of their calls that uses as many hash functions. As no two have
the same functions, outputs count as equal where each estimates the exact Jaccard similarities of the same pairs as closely
as so many independent tosses would.
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
from benchmarks.measure import Row, in_turn

HASHES = 128
CAPTIONS = 20_000
REPEATED = 10
"""Times that ours signs them: once is over too soon to be measured."""
PAIRS = 2_000
_WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")


@dataclass(frozen=True)
class Signer:
    """One of those who are measured: what it is given, what it does, and its signatures as an array (n, HASHES)."""

    name: str
    given: Callable[[Sequence[str]], Any]
    sign: Callable[[Any], Any]
    array: Callable[[Any], Any]


def minhash(part: Path, number: int, times: int) -> tuple[list[Row], bool, str]:
    """The rows of the result, whether all estimate well, and a line on that.

    Args:
        part: Parquet with a column caption.
        number: of its captions.
        times: that each is measured.
    """
    captions = pl.read_parquet(part, columns=["caption"])["caption"].head(number).to_list()
    ours, *peers = _signers()
    for one in (ours, *peers):
        one.sign(one.given(captions[:100]))  # compiled, and its threads made
    mine, rows = ours.given(captions), list[Row]()

    def often() -> None:
        for _ in range(REPEATED):
            ours.sign(mine)

    for peer in peers:
        theirs = peer.given(captions)
        whole = in_turn(often, lambda p=peer: p.sign(p.given(captions)), times, time.process_time)
        given = in_turn(often, lambda p=peer, t=theirs: p.sign(t), times, time.process_time)
        for case, seconds, goal in (("minhash", whole, 10), ("minhash sets", given, None)):
            speed = REPEATED * len(captions) / seconds[0], len(captions) / seconds[1]
            rows.append(Row(case, *speed, peer.name, "signatures/s", goal))
    pairs = [(text, _variant(text)) for text in captions if text.count(" ") > 2][:PAIRS]
    errors = {one.name: _error(one, pairs) for one in (ours, *peers)}
    equal = all(abs(mean) < 0.01 and spread < 1.2 for mean, spread in errors.values())
    said = ", ".join(f"{name} {mean:+.4f}, spread {spread:.2f}" for name, (mean, spread) in errors.items())
    return rows, equal, f"minhash: errors of estimates on {len(pairs):,} pairs: {said}; equal: {equal}"


def _signers() -> list[Signer]:
    os.environ["RAYON_NUM_THREADS"] = "1"  # read when rensa first makes its threads
    import datasketch
    import rensa

    from dataops.text.minhash import compute_signatures

    return [
        Signer("pairmill", pa.array, lambda captions: compute_signatures(captions, HASHES), lambda found: found),
        Signer(
            "datasketch",
            lambda captions: [[token.encode() for token in shingles(text)] for text in captions],
            lambda sets: datasketch.MinHash.bulk(sets, num_perm=HASHES),
            lambda found: np.array([one.hashvalues for one in found]),
        ),
        Signer(
            "rensa",
            lambda captions: [shingles(text) for text in captions],
            lambda sets: rensa.RMinHash.digest_matrix_from_token_sets(sets, HASHES, 1),
            lambda found: np.array(found.to_rows()),
        ),
    ]


def shingles(text: str) -> set[str]:
    """Runs of three characters, as dataops.text.shingles takes them from captions without combining marks."""
    form = f" {' '.join(_WORD.findall(text.casefold()))} "
    return {form[i : i + 3] for i in range(len(form) - 2)}


def _variant(text: str) -> str:
    """The caption without its second word."""
    first, _, *rest = text.split()
    return " ".join([first, *rest])


def _error(one: Signer, pairs: Sequence[tuple[str, str]]) -> tuple[float, float]:
    """The mean error of the estimates, and their spread as a share of that of HASHES independent tosses."""
    sets = [[shingles(pair[side]) for pair in pairs] for side in (0, 1)]
    exact = np.array([len(a & b) / len(a | b) for a, b in zip(*sets, strict=True)])
    left, right = (one.array(one.sign(one.given([pair[side] for pair in pairs]))) for side in (0, 1))
    error = (left == right).mean(axis=1) - exact
    expected = exact * (1 - exact) / HASHES
    return float(error.mean()), float(np.sqrt((error**2).sum() / expected.sum()))
