"""Checks that the flags of URLs and captions are true wherever the expression of a rule finds something."""

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from dataops import plugins
from dataops.text.caption_counts import count_captions
from dataops.text.url_signs import host, may_end, may_have_word, parse_hosts
from tasks.filter.config import FilterConfig

_URLS = [
    *("http://", "https://", "HTTP://", "a.example", "doubleclick.net", "facebook.com", "/tr", "/pixel", ".gif", "?"),
    *("#", "/", "_", "-", ".", "12", "spacer", "\u017fpacer", "Blan\u212a", "cleardot", "1X1", ".php", ".ICO"),
    *(".\u017fvg", ".svg", "x@", "[::1]", ":80", "é", "\n"),
]
_CAPTIONS = [
    *(
        "Jan",
        "february",
        "\u017fept",
        "Sept.",
        "may",
        "1",
        "2020",
        " ",
        "x",
        "X",
        "×",
        "px",
        "pixels",
        "cm",
        "am",
        "th",
    ),
    *("\u212ab", "gmt", "T", "z", ".", ",", ":", "/", "-", "٣", "\u3000", "The", "mars", "é", "_", "IMG", "DSC", "P1"),
    *("photo", ".jpg", ".jpeg", ".\u017fvg", ".tiff", ".cr2", "(2)", "screenshot", "\\"),
]
_ENDINGS = ["ico", "php", "svg"]
ROWS = st.lists(
    st.tuples(*(st.none() | st.lists(st.sampled_from(parts), max_size=6).map("".join) for parts in (_URLS, _CAPTIONS))),
    min_size=1,
    max_size=9,
)


@settings(deadline=None, max_examples=300)
@given(ROWS)
def test_may_flags_have_no_false_negative(rows: list[tuple[str | None, str | None]]):
    config = FilterConfig.model_validate({"blocked_extensions": _ENDINGS, "max_url_chars": 16})
    frame = pl.DataFrame(rows, schema={"url": pl.String, "caption": pl.String}, orient="row")
    sides = pl.lit(None, pl.Int32)
    frame = frame.with_columns(declared_width=sides, declared_height=sides, page_opt_out=pl.lit(None, pl.String))
    known = pl.concat([frame, count_captions(frame["caption"])], how="horizontal")
    tested = [rule for rule in plugins.load("rules").values() if rule.may(config) is not None]
    assert {"tracking", "url_extension", "file_name"} <= {rule.reason for rule in tested}
    for rule in tested:
        if rule.reason != "repeated_words":
            both = (rule.drops(config), rule.may(config))
            drops, may = (known.select(flags.fill_null(value=False)).to_series() for flags in both)
            assert not (drops & ~may).any(), rule.reason


@settings(deadline=None, max_examples=300)
@given(ROWS)
def test_parse_hosts_equals_the_regular_expression(rows: list[tuple[str | None, str | None]]):
    urls = pl.Series("url", [url for url, _ in rows], pl.String)
    expression = pl.col("url").str.extract(r"^https?://(?:[^/?#@]*@)?(\[[^\]]*\]|[^/?#:]*)", 1).str.to_lowercase()
    slow = urls.to_frame().select(expression).to_series()
    assert urls.to_frame().select(host(pl.col("url"))).to_series().to_list() == slow.to_list()
    assert parse_hosts(urls.slice(1), expression).to_list() == slow.slice(1).to_list()


def test_may_flags_have_few_false_positives():
    urls = pl.Series(
        "url", ["http://a.example/photo/pix.jpg", "http://a.example/kite.png?f=a.svg", "http://a.example/co.jpg"]
    )
    signs = urls.to_frame().select(may_have_word(["pixel", "counter"]), ends=may_end(["svg"]))
    assert signs.rows() == [(True, False), (False, False), (False, False)]
    captions = pl.Series(["a red kite", "The kite", "dates of old", "12 kites", "May flowers", "kite.jpg", "DSC 12"])
    flags = count_captions(captions).select("caption_may_be_file", "caption_may_be_date").rows()
    assert flags == [(False, False)] * 4 + [(False, True), (True, False), (True, False)]
