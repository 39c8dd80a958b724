import re
import unicodedata
from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataops import captions, urls
from dataops.captions import folded, normal_caption
from dataops.urls import BadUrl, Resolver, bounded_url, canonical_url

PAGE = "http://site.example/a/b?c=d"


@pytest.mark.parametrize(
    ("reference", "url"),
    [
        ("x.jpg", "http://site.example/a/x.jpg"),
        ("/x.jpg#top", "http://site.example/x.jpg"),
        ("../../../x.jpg", "http://site.example/x.jpg"),
        ("//CDN.example:80/x", "http://cdn.example/x"),
        ("https://cdn.example:443", "https://cdn.example/"),
        ("https://cdn.example:8443/x", "https://cdn.example:8443/x"),
        ("http://h.example/a/./b/%2E%2e/c/..", "http://h.example/a/"),
        ("  \n http://h.example/a b\t.jpg ", "http://h.example/a%20b.jpg"),
        ("http://h.example/ü/%C3%BC.jpg?q=é&r=%20", "http://h.example/%C3%BC/%C3%BC.jpg?q=%C3%A9&r=%20"),
        ("http://Bücher.example/x", "http://xn--bcher-kva.example/x"),
        ("http://h.example./x", "http://h.example/x"),
        ("\\\\cdn.example\\x\\y.jpg?z=\\", "http://cdn.example/x/y.jpg?z=%5C"),
        ("http://[2001:DB8::1]:80/x", "http://[2001:db8::1]/x"),
        ("?page=2", "http://site.example/a/b?page=2"),
        ("http://h.example/100%.jpg", "http://h.example/100%.jpg"),
    ],
)
def test_canonical(reference: str, url: str):
    assert canonical_url(reference, PAGE, 200) == url
    assert canonical_url(url, PAGE, 200) == url


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("", "no_url"),
        (" \n", "no_url"),
        ("DATA:image/png;base64,AAAA", "data_url"),
        ("javascript:alert(1)", "not_http"),
        ("file:///etc/passwd", "not_http"),
        ("ftp://h.example/x", "not_http"),
        ("cid:x@y", "not_http"),
        ("http://", "bad_url"),
        ("http:///x", "bad_url"),
        ("http://user:secret@h.example/x", "bad_url"),
        ("http://h.example:99999/x", "bad_url"),
        ("http://h.example:0/x", "bad_url"),
        ("http://[::1/x", "bad_url"),
        ("http://a..b/x", "bad_url"),
        ("http://a b.example/x", "bad_url"),
        ("http://" + "a" * 64 + ".example/", "bad_url"),
        ("http://\ud800.example/", "bad_url"),
        ("http://h.example/" + "x" * 200, "url_too_long"),
        ("http://h.example/" + "ü" * 100, "url_too_long"),
    ],
)
def test_refused(reference: str, reason: str):
    with pytest.raises(BadUrl) as bad:
        canonical_url(reference, PAGE, 200)
    assert bad.value.reason == reason


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_refused(text: str):
    try:
        url = canonical_url(text, PAGE, 200)
    except BadUrl:
        return
    assert url.isascii()
    assert not set(url) & set(' <>"\t\n#')
    assert canonical_url(url, PAGE, 200) == url


def test_dropped_addresses_are_bounded():
    assert len(bounded_url("data:image/png;base64," + "A" * 10_000, 4096)) == 64
    assert len(bounded_url("http://x/" + "A" * 10_000, 4096)) == 4096
    bounded_url("\ud800", 10).encode()


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
def test_captions(text: str, caption: str):
    assert normal_caption(text, 20) == caption


@given(st.text(st.characters(), max_size=200), st.integers(1, 50))
def test_any_text_becomes_a_caption(text: str, bound: int):
    caption = normal_caption(text, bound)
    assert len(caption) <= bound
    assert normal_caption(caption, bound) == caption
    caption.encode()
    assert folded(folded(caption)) == folded(caption)


def test_a_huge_caption_costs_little():
    assert normal_caption("a " * 10_000_000, 100) == "a " * 49 + "a"


_PIECES = [
    *(
        "http://",
        "https://",
        "HTTP://",
        "//",
        "/",
        "../",
        "./",
        "..",
        "a",
        "b.jpg",
        "%2e%2e",
        "%20",
        "?",
        "?x=/../y",
        "#f",
        ";",
        ":",
    ),
    *(
        "@",
        " ",
        "ü",
        "\\",
        "data:",
        "host.example",
        "HOST.example.",
        "x_y",
        ":80",
        ":8080",
        "[",
        "]",
        "|",
        "&",
        "~",
        "'",
        "=",
        "%2",
    ),
]
references = st.lists(st.sampled_from(_PIECES), max_size=7).map("".join)
bases = st.sampled_from(
    [
        "http://site.example/",
        "https://site.example:8443/a/b/c.html?q=/x/",
        "http://[::1]/x//y/z",
        "http://a.example/p;q/r;s",
    ]
)


@settings(max_examples=800, deadline=None)
@given(references, bases, st.sampled_from([40, 4096]))
def test_the_short_ways_give_what_the_long_way_gives(reference: str, base: str, longest: int):
    """urllib decides; addresses that are plain need not ask it."""

    def of(resolve, *arguments):
        try:
            return resolve(*arguments)
        except BadUrl as bad:
            return bad.reason

    expected = of(long_way, reference, base, longest)
    assert of(canonical_url, reference, base, longest) == expected
    assert of(Resolver(base, longest).resolve, reference) == expected


def long_way(reference: str, base: str, longest: int) -> str:
    """`canonical_url` by urljoin alone."""
    reference = re.sub("[\t\r\n]", "", reference.strip("".join(map(chr, range(33)))))
    if not reference:
        raise BadUrl("no_url")
    scheme = re.match("([a-zA-Z][a-zA-Z0-9+.-]*):", reference)
    if scheme and scheme[1].lower() not in ("http", "https"):
        raise BadUrl("data_url" if scheme[1].lower() == "data" else "not_http")
    if len(reference) > longest:
        raise BadUrl("url_too_long")
    if scheme and re.match(r"[/\\]{2}(?:[/\\?#]|\Z)", reference[scheme.end() :]):
        raise BadUrl("bad_url")
    try:
        url = urls._canonical(urlsplit(urljoin(base, urls._slashes(reference))))
    except (ValueError, UnicodeError) as error:
        raise BadUrl("bad_url") from error
    if len(url) > longest:
        raise BadUrl("url_too_long")
    return url


@settings(max_examples=1000, deadline=None)
@given(st.text(st.sampled_from("ab e\u0301é\u00a0\u200b \n\tß東\ud800\x00가ᄀ\u1161") | st.characters(), max_size=12))
def test_the_short_way_of_captions_gives_what_the_long_way_gives(text: str):
    kept = "".join(c for c in text if c.isspace() or c in "\u200c\u200d" or not captions._NOT_TEXT.match(c))
    assert normal_caption(text, 2000) == " ".join(unicodedata.normalize("NFC", kept).split())
