"""One pass over the bytes says what the regular expressions say."""

import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataops.kernels.characters import UNSPACED
from dataops.rules.captions import PATTERNS, mask_personal_data
from dataops.text.caption_counts import COUNTS, count_captions

TEXT = st.text(
    st.one_of(
        st.sampled_from("aAzé ßİıſ\u212a 19٣ 赤กა\u0301.@:/wW+-()\t\n\u3000\u00a0★𝟛𠀀"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=40,
)


@given(st.lists(st.one_of(st.none(), TEXT), max_size=6))
def test_count_captions_equals_the_regular_expressions(texts):
    frame = pl.DataFrame({"caption": texts}, schema={"caption": pl.String})
    caption = pl.col("caption")
    slow = frame.select(
        caption.str.len_chars(),
        caption.str.count_matches(rf"[{UNSPACED}]|[^\s{UNSPACED}]+").alias("words"),
        caption.str.count_matches(r"\S").alias("visible"),
        caption.str.count_matches(r"[\p{L}\p{M}]").alias("letters"),
        caption.str.split(" ").list.len().cast(pl.UInt32).alias("pieces"),
    )
    assert count_captions(frame["caption"]).select(COUNTS[:-1]).rows() == slow.rows()


@given(st.lists(TEXT, max_size=5))
def test_caption_capitals_equals_a_change_of_case(texts):
    frame = pl.DataFrame({"caption": texts}, schema={"caption": pl.String})
    caption = pl.col("caption")
    slow = (caption == caption.str.to_uppercase()) & (caption != caption.str.to_lowercase())
    assert count_captions(frame["caption"])["caption_capitals"].to_list() == frame.select(slow).to_series().to_list()


@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_caption_may_be_personal_has_no_false_negative(name):
    # Python knows this flag at the beginning only. What it makes is then asked of Rust's.
    pattern = re.compile(PATTERNS[name].replace("(?i)", ""), re.IGNORECASE if "(?i)" in PATTERNS[name] else 0)

    @given(st.from_regex(pattern), TEXT, TEXT)
    def check(found, before, after):
        text = f"{before} {found} {after}".encode(errors="ignore").decode()
        frame = pl.DataFrame({"caption": [text]})
        if frame.select(mask_personal_data(pl.col("caption"))).item() != text:
            assert count_captions(frame["caption"])["caption_may_be_personal"].item()

    check()
