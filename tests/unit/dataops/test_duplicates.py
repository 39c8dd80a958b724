import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataops.duplicates import DEDUPE_STEPS, KEY_BYTES, KEYS, duplicates, keys, partition
from dataops.schema import uid

NESTED = DEDUPE_STEPS[:3]


def pairs(rows: list[tuple[str, str, str, str]]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "uid": [uid(url, caption) for url, caption, _, _ in rows],
            "url": [row[0] for row in rows],
            "caption": [row[1] for row in rows],
            "caption_source": [row[2] for row in rows],
            "page_url": [row[3] for row in rows],
            "source": ["a.warc.gz"] * len(rows),
            "source_offset": [0] * len(rows),
        },
        schema_overrides={"caption": pl.String},
    )


def chosen(rows: list[tuple[str, str, str, str]]) -> list[str | None]:
    return duplicates(keys(pairs(rows)), NESTED).to_list()


@pytest.mark.parametrize(
    ("best", "worse", "reason"),
    [
        (("u", "a red kite", "alt"), ("u", "a red kite", "title"), "duplicate_uid"),
        (("u", "A red kite", "alt"), ("u", "A RED KITE", "alt"), "duplicate_pair"),
        (("u", "Straße am Meer", "alt"), ("u", "strasse am meer", "title"), "duplicate_pair"),
        (("u", "a red kite", "alt"), ("u", "a red kite over the hill", "figcaption"), "duplicate_url"),
        (("u", "a red kite over the hill", "figcaption"), ("u", "kite", "alt"), "duplicate_url"),
        (("u", "a red kite over the hill", "alt"), ("u", "a red kite", "alt"), "duplicate_url"),
        (("u", "a red kite", "alt"), ("u", "A RED KITE AND MORE", "alt"), "duplicate_url"),
    ],
)
def test_the_better_one_stays(best: tuple[str, str, str], worse: tuple[str, str, str], reason: str):
    assert chosen([(*best, "p"), (*worse, "p")]) == [None, reason]
    assert chosen([(*worse, "p"), (*best, "p")]) == [reason, None]


ROW = st.tuples(
    st.sampled_from(["http://a/1", "http://a/2", "http://b/1"]),
    st.sampled_from(["a red kite", "A Red Kite", "A RED KITE", "kite", "a kite over a hill", "Ein Drachen", "ß", "SS"]),
    st.sampled_from(["alt", "title", "figcaption", "pair_list"]),
    st.sampled_from(["http://p/1", "http://p/2"]),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(ROW, max_size=25), st.randoms(use_true_random=False))
def test_the_choice_is_idempotent_and_knows_no_order(rows: list[tuple[str, str, str, str]], random):
    first = chosen(rows)
    kept = [row for row, reason in zip(rows, first, strict=True) if reason is None]
    assert len({row[0] for row in kept}) == len(kept) == len({row[0] for row in rows})
    assert chosen(kept) == [None] * len(kept)
    shuffled = list(rows)
    random.shuffle(shuffled)
    again = [row for row, reason in zip(shuffled, chosen(shuffled), strict=True) if reason is None]
    assert sorted(again) == sorted(kept)


@settings(deadline=None, max_examples=60)
@given(st.lists(ROW, max_size=25), st.sets(st.sampled_from(NESTED)))
def test_steps_that_are_off_drop_nothing(rows: list[tuple[str, str, str, str]], steps: set):
    found = duplicates(keys(pairs(rows)), list(steps)).to_list()
    assert {reason for reason in found if reason} <= {f"duplicate_{step}" for step in steps}
    assert len(found) == len(rows)


@settings(deadline=None, max_examples=60)
@given(st.lists(ROW, max_size=30), st.integers(0, 4))
def test_ranges_of_urls_can_be_decided_apart(rows: list[tuple[str, str, str, str]], bits: int):
    found = keys(pairs(rows))
    order, sizes = partition(found["url_high"], bits)
    assert [high >> 64 - bits for high in found["url_high"][order].to_list()] == np.repeat(
        range(1 << bits), sizes
    ).tolist()
    apart: list[str | None] = [None] * len(rows)
    for end, size in zip(np.cumsum(sizes), sizes, strict=True):
        places = order[end - size : end]
        assert places.is_sorted()
        for place, reason in zip(places, duplicates(found[places], NESTED), strict=True):
            apart[place] = reason
    assert apart == chosen(rows)


def test_one_caption_of_several_urls():
    rows = [("u", "a red kite", "title", "p"), ("v", "A red kite", "alt", "p"), ("w", "kite", "alt", "p")]
    assert duplicates(keys(pairs(rows)), ["caption"]).to_list() == ["duplicate_caption", None, None]


def test_the_size_of_a_key():
    assert pl.DataFrame(schema=KEYS).clear(1000).estimated_size() == pytest.approx(KEY_BYTES * 1000, rel=0.01)
