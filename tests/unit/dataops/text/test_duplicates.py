import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataops.schema import uid
from dataops.text.duplicates import (
    DEDUPE_STEPS,
    FULL_CAPTION_WORDS,
    LONG_CAPTION_WORDS,
    SOURCE_RANK,
    compute_keys,
    find_duplicates,
)


def pairs(rows):
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


def named(found):
    return [f"duplicate_{DEDUPE_STEPS[step - 1]}" if step else None for step in found.tolist()]


ROW = st.tuples(
    st.sampled_from(["http://a/1", "http://a/2", "http://b/1"]),
    st.sampled_from(["a red kite", "A Red Kite", "A RED KITE", "kite", "a kite over a hill", "Ein Drachen", "ß", "SS"]),
    st.sampled_from(["alt", "title", "figcaption", "pair_list"]),
    st.sampled_from(["http://p/1", "http://p/2"]),
)


@pytest.mark.parametrize(
    ("step", "low"), [("url", "url_low"), ("caption", "caption_low"), ("uid", "url"), ("pair", "caption")]
)
def test_find_duplicates_compares_128_bits(step, low):
    """Rows whose hashes agree in the first half only, as those of two of a billion URLs do, are both kept."""
    keys = compute_keys(pairs([("u", "a red kite", "alt", "p"), ("u", "a red kite", "title", "p")]))
    assert named(find_duplicates(keys, [step])) == [None, f"duplicate_{step}"]
    apart = keys.with_columns(pl.Series(low, [1, 2], dtype=pl.UInt64))
    assert named(find_duplicates(apart, [step])) == [None, None]


def find_slowly(rows, steps):
    """Choose as documented: for each step, keep the best row of each group."""
    origins = compute_keys(pairs(rows))["origin"].to_list()
    found = [None] * len(rows)
    groups = {"uid": lambda r: r[:2], "pair": lambda r: (r[0], r[1].casefold()), "url": lambda r: r[0]}
    groups["caption"] = lambda r: r[1].casefold()

    def order(i, step):
        url, caption, source, _ = rows[i]
        words = len(caption.split())
        by_source = caption.isupper(), SOURCE_RANK[source]
        best = (
            words < FULL_CAPTION_WORDS or source in ("keywords", "synthetic"),
            *by_source,
            -min(words, LONG_CAPTION_WORDS),
        )
        return (by_source if step in ("uid", "pair") else best), uid(url, caption), origins[i], i

    for step in (s for s in DEDUPE_STEPS if s in steps):
        left = [i for i, reason in enumerate(found) if reason is None]
        of = {i: groups[step](rows[i]) for i in left}
        stays = {group: min((i for i in left if of[i] == group), key=lambda i: order(i, step)) for group in of.values()}
        for i in left:
            found[i] = None if stays[of[i]] == i else f"duplicate_{step}"
    return found


@given(st.lists(ROW, max_size=25), st.sets(st.sampled_from(DEDUPE_STEPS)))
def test_find_duplicates_equals_a_reference_in_plain_python(rows, steps):
    assert named(find_duplicates(compute_keys(pairs(rows)), list(steps))) == find_slowly(rows, list(steps))
    if not steps & {"pair", "caption"}:
        assert named(find_duplicates(compute_keys(pairs(rows), captions=False), list(steps))) == find_slowly(
            rows, list(steps)
        )


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (("u", "kite", "filename"), ("u", "a red kite over the hill", "alt"), "duplicate_url"),
        (("u", "A RED KITE", "og"), ("u", "a red kite", "alt"), "duplicate_pair"),
        (("u", "kite", "title"), ("u", "kite", "alt"), "duplicate_uid"),
        (("v", "A KITE", "og"), ("u", "a kite", "alt"), "duplicate_caption"),
    ],
)
def test_find_duplicates_keeps_the_row_of_the_first_source(first, second, reason):
    rows = pairs([(*first, "p"), (*second, "p")])
    for names in (("zoo", "ark"), *[(*(f"s{n}" for n in range(n)), "zoo", "ark") for n in (9, 62)]):
        for order in ([0, 1], [1, 0]):
            sourced = rows.with_columns(source=pl.Series(["zoo/a.csv", "ark/a.csv"]))[order]
            found = named(find_duplicates(compute_keys(sourced, sources=names), DEDUPE_STEPS))
            assert [found[i] for i in order] == [None, reason]
