import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataops.filters import DEDUPE_STEPS, TextBounds, dedupe_columns, duplicates, first_reason, rules
from dataops.schema import uid

BOUNDS = TextBounds(
    min_chars=3,
    max_chars=60,
    min_words=2,
    max_words=12,
    min_letter_fraction=0.5,
    drop_file_names=True,
    max_url_chars=60,
    blocked_extensions=("ico", "svg"),
)


def reasons(rows: list[tuple[str, str]], bounds: TextBounds = BOUNDS) -> list[str | None]:
    frame = pl.DataFrame(rows, schema=["url", "caption"], orient="row")
    return frame.select(first_reason(rules(bounds))).to_series().to_list()


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        ("a red kite", None),
        ("a\u0301 b", None),
        ("", "too_short"),
        ("ab", "too_short"),
        ("kite", "too_few_words"),
        ("赤い凧", None),  # a letter is a word
        ("ว่าว", None),
        ("x" * 30 + " " + "y" * 30, "too_long"),
        ("a b c d e f g h i j k l m", "too_many_words"),
        ("IMG_2034 copy.JPG", "file_name"),
        ("my holiday photo.png", "file_name"),
        ("DSC 00412", "file_name"),
        ("screenshot 2026-01-02", "file_name"),
        ("image 12 of a kite", None),
        ("see kite.png for the full picture of it", None),
        ("12 / 34 x", "few_letters"),
        ("★★★ ok", "few_letters"),
    ],
)
def test_captions(caption: str, reason: str | None):
    assert reasons([("http://a.example/1.jpg", caption)]) == [reason]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://a.example/logo.svg", "url_extension"),
        ("http://a.example/LOGO.SVG?v=2", "url_extension"),
        ("http://a.example/?file=logo.svg", None),
        ("http://a.example/svg/logo.png", None),
        ("http://a.example/" + "x" * 60, "url_too_long"),
    ],
)
def test_addresses(url: str, reason: str | None):
    assert reasons([(url, "a red kite")]) == [reason]


def test_every_rule_can_be_off():
    off = TextBounds(0, None, 0, None, 0, False, None, ())
    assert reasons([("http://a.example/x.svg", ""), ("", "1"), ("", "IMG_2034.jpg")], off) == [None] * 3


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
    return duplicates(dedupe_columns(pairs(rows)), DEDUPE_STEPS).to_list()


@pytest.mark.parametrize(
    ("best", "worse", "reason"),
    [
        (("u", "a red kite", "alt"), ("u", "a red kite", "title"), "duplicate_uid"),
        (("u", "A red  kite", "alt"), ("u", "A RED KITE", "alt"), "duplicate_pair"),
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
@given(st.lists(ROW, max_size=25), st.sets(st.sampled_from(DEDUPE_STEPS)))
def test_steps_that_are_off_drop_nothing(rows: list[tuple[str, str, str, str]], steps: set):
    found = duplicates(dedupe_columns(pairs(rows)), list(steps)).to_list()
    assert {reason for reason in found if reason} <= {f"duplicate_{step}" for step in steps}
    assert len(found) == len(rows)
