"""Compare MinHash signatures of captions with rensa (Rust): one thread each, in CPU time.

Both compute signatures of 128 hashes over the same sets of shingles, ours from the column of captions. The peer needs sets
of shingles, which Python builds. The functions differ, so outputs count as equal if each estimates the exact Jaccard
similarities of the same pairs as closely as independent trials would.
"""

import os
import re
import time

import numpy as np
import polars as pl
import pyarrow as pa

from benchmarks.cases.filter_cases import UNSPACED
from benchmarks.measure import Row, copy_speed, time_in_turn

HASHES = 128
CAPTIONS = 20_000
REPEATED = 10
"""Number of times that ours signs them: once is too short to measure."""
PAIRS = 2_000
_WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")


def measure_minhash(part, number, times):
    """Return the row, whether all estimates are good, and a line about them.

    Args:
        part: Parquet file with a column caption.
        number: number of captions.
        times: repetitions of each measurement.
    """
    captions = pl.read_parquet(part, columns=["caption"])["caption"].head(number).to_list()
    for sign in (sign_ours, sign_rensa):
        sign(captions[:100])  # compile, and start threads

    def sign_repeatedly():
        for _ in range(REPEATED):
            sign_ours(captions)

    ours, theirs, _, _ = time_in_turn(sign_repeatedly, lambda: sign_rensa(captions), times, time.process_time)
    speeds = REPEATED * len(captions) / ours, len(captions) / theirs
    pairs = [(text, _variant(text)) for text in captions if text.count(" ") > 2][:PAIRS]
    errors = {name: _error(sign, pairs) for name, sign in (("pairmill", sign_ours), ("rensa", sign_rensa))}
    equal = all(abs(mean) < 0.01 and spread < 1.2 for mean, spread in errors.values())
    listed = ", ".join(f"{name} {mean:+.4f}, spread {spread:.2f}" for name, (mean, spread) in errors.items())
    line = f"minhash: errors of estimates on {len(pairs):,} pairs: {listed}; equal: {equal}"
    return [Row("minhash", *speeds, "rensa", "signatures/s", 10, copy_speed(captions))], equal, line


def sign_ours(captions):
    """Return signatures (n, HASHES) by our code."""
    from plugins.textdedup.minhash import compute_signatures

    return compute_signatures(pa.array(captions), HASHES)


def sign_rensa(captions):
    """Return signatures (n, HASHES) by rensa."""
    os.environ["RAYON_NUM_THREADS"] = "1"  # rensa reads it when it starts threads
    import rensa

    sets = [make_shingles(text) for text in captions]
    return np.array(rensa.RMinHash.digest_matrix_from_token_sets(sets, HASHES, 1).to_rows())


def make_shingles(text):
    """Return sequences of three characters, as plugins.textdedup.shingles for captions without combining marks."""
    form = f" {' '.join(_WORD.findall(text.casefold()))} "
    return {form[i : i + 3] for i in range(len(form) - 2)}


def _variant(text):
    """Return the caption without its second word."""
    first, _, *rest = text.split()
    return " ".join([first, *rest])


def _error(sign, pairs):
    """Return the mean error of the estimates, and their spread relative to HASHES independent trials."""
    sets = [[make_shingles(pair[side]) for pair in pairs] for side in (0, 1)]
    exact = np.array([len(a & b) / len(a | b) for a, b in zip(*sets, strict=True)])
    left, right = (sign([pair[side] for pair in pairs]) for side in (0, 1))
    error = (left == right).mean(axis=1) - exact
    expected = exact * (1 - exact) / HASHES
    return float(error.mean()), float(np.sqrt((error**2).sum() / expected.sum()))
