import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataops.web import captions
from dataops.web.captions import normalise_caption


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("  a\n red\t kite ", "a red kite"),
        ("cafe\u0301", "café"),
        ("a\x00b\u200bc\ud800d\ufeff", "abcd"),
        ("a\u2028b\u00a0c\u3000d", "a b c d"),
        ("👨\u200d👩\u200d👧 family", "👨\u200d👩\u200d👧 family"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("\u202eevil\u202c", "evil"),
        ("one two three four five six", "one two three four"),
        ("x" * 30, "x" * 20),
    ],
)
def test_normalise_caption(text, caption):
    assert normalise_caption(text, 20) == caption


@given(st.text(st.characters(), max_size=200), st.integers(1, 50))
def test_normalise_caption_is_idempotent_and_limited_for_any_text(text, bound):
    caption = normalise_caption(text, bound)
    assert len(caption) <= bound
    assert normalise_caption(caption, bound) == caption
    caption.encode()


@given(
    st.text(st.sampled_from("ab e\u0301é\u00a0\u200b \n\tß東\ud800\x00가\u1100\u1161") | st.characters(), max_size=12)
)
def test_normalise_caption_fast_path_equals_full_normalisation(text):
    kept = "".join(c for c in text if not captions._NOT_TEXT.match(c))
    assert normalise_caption(text, 2000) == " ".join(unicodedata.normalize("NFC", kept).split())
