"""Compare rules over scores with a slow reference."""

import math
from fractions import Fraction

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from plugins.scores.rules import (
    Cut,
    ScoreRule,
    count_keys,
    drop_reasons,
    find_positions,
    rows_to_rank,
    score_of_key,
)


def reference_reasons(rows, rules):
    """Apply each rule to one row after the other."""
    reasons = []
    for row in rows:
        reasons.append(next((reason for rule in rules if (reason := reference_reason(row, rows, rule))), None))
    return reasons


def reference_reason(row, rows, rule):
    def has_score(other):
        return other[rule.score] is not None and not math.isnan(other[rule.score])

    score = row[rule.score]
    if not has_score(row):
        return f"{rule.score}_missing"
    if rule.min is not None and score < rule.min:
        return f"{rule.score}_low"
    if rule.max is not None and score > rule.max:
        return f"{rule.score}_high"
    if rule.band is None and rule.top_fraction is None:
        return None
    rivals = [o for o in rows if has_score(o) and (not rule.by or o["language"] == row["language"])]
    ahead = sum((-o[rule.score], o["uid"]) < (-score, row["uid"]) for o in rivals)
    low, high = rule.band or (0.0, rule.top_fraction)
    if ahead < Fraction(str(low)) * len(rivals):
        return f"{rule.score}_above_band"
    if ahead >= Fraction(str(high)) * len(rivals):
        return f"{rule.score}_{'below_band' if rule.band else 'not_top'}"
    return None


def table(rows):
    schema = pa.schema(
        [("uid", pa.string()), ("language", pa.string()), ("clip_score", pa.float32()), ("nsfw", pa.float32())]
    )
    return pa.Table.from_pylist(rows, schema)


def positions_of(rows, cuts, batch):
    batches = [
        rows_to_rank(table(rows[i : i + batch]), ["clip_score", "nsfw", "language"]) for i in range(0, len(rows), batch)
    ]
    return find_positions(cuts, lambda found, number: (count_keys(batch, cuts, found, number) for batch in batches))


def apply(rows, rules, batch=1000):
    """Rank the rows in batches of at most `batch` rows, and apply the rules to each batch."""
    positions = positions_of(rows, [cut for rule in rules for cut in rule.cuts], batch)
    parts = [table(rows[i : i + batch]) for i in range(0, max(len(rows), 1), batch)]
    return [reason for part in parts for reason in drop_reasons(part, rules, positions).to_pylist()]


def reasons(rows, *rules):
    return apply(rows, [ScoreRule(**rule) for rule in rules])


def scored(*scores, language="en", first=0):
    return [
        {"uid": f"{first + i:032x}", "language": language, "clip_score": score, "nsfw": 0.0}
        for i, score in enumerate(scores)
    ]


SHARES = st.sampled_from([0.0, 0.02, 0.07, 0.1, 0.25, 0.3, 0.5, 0.9, 1.0])
# Few exact float32 values, so that ties and scores equal to a threshold are frequent.
SCORES = st.sampled_from([None, math.nan, -math.inf, -0.5, -0.0, 0.0, 0.125, 0.25, 0.25, 0.25 + 2**-20, 1.0])
BY = st.sampled_from([None, "language"])
RULES = st.one_of(
    st.builds(lambda s, v: ScoreRule(score=s, min=v), st.sampled_from(["clip_score", "nsfw"]), st.just(0.25)),
    st.builds(lambda s, v: ScoreRule(score=s, max=v), st.sampled_from(["clip_score", "nsfw"]), st.just(0.25)),
    st.builds(lambda f, by: ScoreRule(score="clip_score", top_fraction=f, by=by), SHARES.filter(bool), BY),
    st.builds(
        lambda ends, by: ScoreRule(score="clip_score", band=tuple(sorted(ends)), by=by),
        st.tuples(SHARES, SHARES).filter(lambda ends: ends[0] != ends[1]),
        BY,
    ),
)


@given(
    st.lists(st.tuples(SCORES, SCORES, st.sampled_from(["en", "de", None])), max_size=40),
    st.lists(RULES, max_size=3),
    st.randoms(use_true_random=False),
    st.sampled_from([1, 7, 40]),
    st.sampled_from([32, 64, 128]),
)
def test_drop_reasons_equals_the_reference_in_any_order_of_rows_and_batches(values, rules, random, batch, bits):
    uids = [f"{i << 128 - bits:032x}" for i in range(len(values))]
    random.shuffle(uids)
    rows = [
        {"uid": uid, "clip_score": clip, "nsfw": nsfw, "language": language}
        for uid, (clip, nsfw, language) in zip(uids, values, strict=True)
    ]
    assert apply(rows, rules, batch) == reference_reasons(rows, rules)


def test_a_cut_counts_keys_by_few_bits_at_a_time():
    rows = [row | {"uid": f"{(7 * i) % 1000:032x}"} for i, row in enumerate(scored(*[0.3, 0.3, 0.3, 0.7, -1.0] * 200))]
    counted = []

    def count(cuts):
        ranked = rows_to_rank(table(rows), ["clip_score", "language"])

        def count_one(found, number):
            counts = count_keys(ranked, cuts, found, number)
            counted.append(counts.height)
            return [counts]

        return find_positions(cuts, count_one)

    cuts = [Cut("clip_score", share, by) for share in (0.1, 0.5, 0.9) for by in (None, "language")]
    found = count(cuts).sort("cut")
    assert max(counted[:-1]) <= len(cuts), "the rows of a pass are counted by the first bytes of their keys"
    ordered = sorted(rows, key=lambda row: (-row["clip_score"], row["uid"]))
    for position, cut in zip(found.iter_rows(named=True), cuts, strict=True):
        row = ordered[round(cut.share * 1000)]
        assert position["key"][4:] <= bytes.fromhex(row["uid"])
        assert score_of_key(position["key"]) == pytest.approx(row["clip_score"])


@settings(max_examples=30)
@given(st.lists(st.floats(width=32, allow_nan=False), max_size=60))
def test_quantiles_equal_those_of_polars(values):
    shares = [0.0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 1.0]
    cuts = [Cut("clip_score", share, is_quantile=True) for share in shares]
    found = positions_of([*scored(*values), *scored(None, math.nan, first=60)], cuts, 9)
    keys = dict(found.select("cut", "key").iter_rows())
    series = pl.Series(values, dtype=pl.Float32)
    expected = {cut: series.quantile(share, "nearest") for cut, share in enumerate(shares) if values}
    assert {cut: score_of_key(key) for cut, key in keys.items()} == expected


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({}, "give one of"),
        ({"min": 0.1, "top_fraction": 0.3}, "give one of"),
        ({"band": [0.1, 0.3], "top_fraction": 0.3}, "give one of"),
        ({"min": 0.1, "by": "language"}, "by goes with"),
        ({"min": 0.3, "max": 0.1}, "above max"),
        ({"band": [0.3, 0.3]}, "not below"),
        ({"band": [0.3, 1.3]}, "less than or equal to 1"),
        ({"top_fraction": 0}, "greater than 0"),
        ({"min": math.nan}, "finite"),
        ({"top_fraction": 0.3, "by": "host"}, "language"),
    ],
)
def test_score_rule_refuses_unclear_values(rule, message):
    with pytest.raises(ValidationError, match=message):
        ScoreRule(score="clip_score", **rule)
