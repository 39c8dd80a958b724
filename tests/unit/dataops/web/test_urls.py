import os
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from unittest.mock import Mock

import ada_url
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataops.errors import ConfigError
from dataops.web import urls
from dataops.web.urls import BadUrl, Resolver, canonicalise_url

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
        ("http://[::FFFF:127.0.0.1]/x", "http://[::ffff:7f00:1]/x"),
        ("http://[::ffff:7f00:1]/x", "http://[::ffff:7f00:1]/x"),
        ("?page=2", "http://site.example/a/b?page=2"),
        ("http://h.example/100%.jpg", "http://h.example/100%.jpg"),
        ("http://user:secret@h.example/x", "http://h.example/x"),
        ("//a@b@h.example/x@y", "http://h.example/x@y"),
        ("http:x.jpg", "http://site.example/a/x.jpg"),
        ("b//c/../x.jpg", "http://site.example/a/b//x.jpg"),
        ("x.jpg;?", "http://site.example/a/x.jpg;"),
        ("x;a=b/../y", "http://site.example/a/y"),
        ("http://%77ww.h.example/x", "http://www.h.example/x"),
        ("http://faß.example/", "http://xn--fa-hia.example/"),
        ("http://ＷＷＷ。h.example/", "http://www.h.example/"),
        ("#top", "http://site.example/a/b?c=d"),
        ("http://h.example:/x", "http://h.example/x"),
    ],
)
def test_canonicalise_url_returns_the_canonical_form(reference, url):
    assert canonicalise_url(reference, PAGE, 200) == url
    assert canonicalise_url(url, PAGE, 200) == url


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
        ("http://h.example:99999/x", "bad_url"),
        ("http://h.example:0/x", "bad_url"),
        ("http://[::1/x", "bad_url"),
        ("http://[fe80::1%25eth0]/x", "bad_url"),
        ("///h.example/x", "bad_url"),
        ("https:x.jpg", "bad_url"),
        ("http://h.example:80x/", "bad_url"),
        ("http://@/x", "bad_url"),
        ("http://a..b/x", "bad_url"),
        ("http://a b.example/x", "bad_url"),
        ("http://" + "a" * 64 + ".example/", "bad_url"),
        ("http://\ud800.example/", "bad_url"),
        ("http://h.example/" + "x" * 200, "url_too_long"),
        ("http://h.example/" + "ü" * 100, "url_too_long"),
    ],
)
def test_canonicalise_url_raises_the_reason(reference, reason):
    with pytest.raises(BadUrl) as bad:
        canonicalise_url(reference, PAGE, 200)
    assert bad.value.reason == reason


REFERENCE = st.lists(
    st.sampled_from(["/", "//", "a", "x.jpg", ".", "..", "?", "q=1", "#", ";", ":", "h.example", "é"]), max_size=9
)


@given(REFERENCE.map("".join), st.sampled_from([PAGE, "https://h.example/", "http://h.example/a//b/;c?d"]))
def test_canonicalise_url_equals_a_parser_of_the_url_standard(reference, base):
    """Compare all URLs except those that only we refuse: without a host, or with an empty query."""
    try:
        url = canonicalise_url(reference, base, 300)
    except BadUrl:
        return
    oracle = ada_url.URL(reference, base)
    oracle.hostname = oracle.hostname.removesuffix(".")  # an absolute name is the same host
    assert url == f"{oracle.origin}{oracle.pathname}{oracle.search}"
    assert Resolver(canonicalise_url(base, base, 300), 300).resolve(reference) == url


@given(st.text(max_size=60))
def test_canonicalise_url_returns_a_canonical_url_or_raises_for_any_text(text):
    try:
        url = canonicalise_url(text, PAGE, 200)
    except BadUrl:
        return
    assert url.isascii()
    assert not set(url) & set(' <>"\t\n#')
    assert canonicalise_url(url, PAGE, 200) == url


PIECES = [
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
    "@",
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
]
BASES = (
    "http://site.example/",
    "https://site.example:8443/a/b/c.html?q=/x/",
    "http://[::1]/x//y/z",
    "http://a.example/p;q/r;s",
)


@given(
    st.lists(st.sampled_from([*PIECES, " "]), max_size=7).map("".join),
    st.sampled_from(BASES),
    st.sampled_from([40, 4096]),
)
def test_fast_paths_equal_full_resolution(reference, base, longest):
    def result_of(resolve, *arguments):
        try:
            return resolve(*arguments)
        except BadUrl as bad:
            return bad.reason

    expected = result_of(urls._resolve, reference, base, longest)
    assert result_of(canonicalise_url, reference, base, longest) == expected
    assert result_of(Resolver(base, longest).resolve, reference) == expected


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (FileNotFoundError("no .tld"), "no .tld"),
        (b"\xe9\xe8", "can't decode"),
        (b"<html>404</html>", "No tlds"),
        (b"// ===BEGIN ICANN DOMAINS===\ncom\n", "it is cut short"),
    ],
)
def test_a_suffix_list_that_is_missing_or_damaged_is_a_clear_error(monkeypatch, found, why):
    monkeypatch.setattr("tldextract.suffix_list.pkgutil.get_data", Mock(side_effect=[found]))
    with pytest.raises(ConfigError, match=rf"Suffix List is missing or damaged; reinstall tldextract \(.*{why}"):
        urls.load_suffixes.__wrapped__(private=True)


def test_a_named_pipe_in_place_of_the_suffix_list_is_a_clear_error(monkeypatch, tmp_path):
    os.mkfifo(tmp_path / ".tld_set_snapshot")
    monkeypatch.setattr("tldextract.__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(ConfigError, match=r"reinstall tldextract .*tld_set_snapshot is a named pipe"):
        urls.load_suffixes.__wrapped__(private=True)


def test_threads_that_start_together_read_the_list_of_suffixes_once():
    urls.load_suffixes.cache_clear()
    together = Barrier(8)

    def find(number):
        together.wait()
        return urls.find_registrable_domain(f"www.shop{number}.co.uk")

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(find, range(8))) == [f"shop{number}.co.uk" for number in range(8)]
    assert urls.load_suffixes.cache_info().misses == 1
