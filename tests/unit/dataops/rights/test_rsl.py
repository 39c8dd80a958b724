from email.message import Message

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dataops.rights.rsl import RSL
from dataops.rights.signals import MAX_DETAIL_CHARS, Agents, Statement, find_header_opt_outs, find_prohibitions

URL = "https://a.test/license.xml"
ERROR = 'License error="invalid_request", error_description="Access to this resource requires a valid license"'


@pytest.mark.parametrize(
    ("header", "challenge"),
    [
        ("License", "License"),
        ("license", "license"),
        (" LICENSE ,", "LICENSE"),
        (ERROR, ERROR),
        (
            ERROR + ', authorization_uri="https://a.test/t?a=1,2"',
            ERROR + ', authorization_uri="https://a.test/t?a=1,2"',
        ),
        ('License realm="a", methods="x402 jwt"', 'License realm="a", methods="x402 jwt"'),
        ('License error = "a" ,  scope=b', 'License error = "a", scope=b'),
        ("License\terror=invalid_token", "License error=invalid_token"),
        ("License YWJj==", "License YWJj=="),
        ('License; error="a"', 'License; error="a"'),
        (f'Basic realm="a", {ERROR}', ERROR),
        (f'{ERROR}, Bearer realm="b", License error="c"', ERROR),
        ("Negotiate, License, Digest realm=a", "License"),
        (r'Basic realm="a\", License", License error="b"', 'License error="b"'),
        ('License error_description="a", License error="b"', 'License error_description="a"'),
        (
            'License error_description="never ends, Basic realm=a',
            'License error_description="never ends, Basic realm=a',
        ),
        ('Basic realm="License error=1, License x"', None),
        ('Basic realm="License", license="x"', None),
        ('Basic realm="a", license = "x"', None),
        ("Negotiate License", None),
        ("Licensed", None),
        ("X-License a=b", None),
        ("License=1", None),
        ("Bearer", None),
        ("", None),
    ],
)
def test_find_reads_challenges(header: str, challenge: str | None) -> None:
    assert find("www-authenticate", header) == challenge


def find(name: str, value: str) -> str | None:
    return next(find_prohibitions(RSL, Statement("header", name, value)), None)


@pytest.mark.parametrize(
    ("header", "url"),
    [
        (f'<{URL}>; rel="license"; type="application/rsl+xml"', URL),
        (f"</style.css>; rel=preload, <{URL}>;type=application/rsl+xml;rel='describedby License'", URL),
        (f'<{URL}>; REL=license; TYPE="Application/RSL+XML; charset=utf-8"', URL),
        (f'<{URL}>; rel="license"', None),
        (f'<{URL}>; rel="alternate"; type="application/rsl+xml"', None),
        (f'<{URL}>; rel="license"; type="application/rsl+xmlish"', None),
        (f'<{URL}>; rel="license", </feed>; rel=alternate; type="application/rsl+xml"', None),
        ("", None),
    ],
)
def test_find_reads_link_headers(header: str, url: str | None) -> None:
    assert find("link", header) == url


@given(st.text(max_size=200))
@example('"\\')
@settings(max_examples=100, deadline=None)
def test_find_accepts_any_text(header: str) -> None:
    assert find("www-authenticate", f"License, {header}") is not None
    assert find("www-authenticate", header) is None or "license" in header.lower()


def test_find_takes_linear_time_and_keeps_little() -> None:  # a quadratic step takes minutes
    for unit in ('"', '\\"', '"\\', ",", "a", " ", "=", "a ", "License=", '",'):
        assert find("www-authenticate", "Basic " + unit * (300_000 // len(unit))) is None
    for text in ("<" * 500_000, "<a>; rel=" * 60_000, ';rel="' * 80_000):
        assert find("link", text) is None
    assert len(find("www-authenticate", "License " + "a" * 300_000) or "") == MAX_DETAIL_CHARS


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("content-type", "Application/RSL+XML; charset=utf-8", "application/rsl+xml"),
        ("content-type", "application/xml", None),
    ],
)
def test_find_reads_the_media_type(name: str, value: str, found: str | None) -> None:
    assert find(name, value) == found


def test_find_header_opt_outs_returns_each_kind_of_declaration_once() -> None:
    headers = Message()
    for name, value in (
        ("WWW-Authenticate", "Basic realm=a"),
        ("WWW-Authenticate", 'License error="invalid_token"'),
        ("www-authenticate", "License"),
        ("Link", '</l.xml>; rel="license"; type="application/rsl+xml"'),
        ("Content-Type", "application/rsl+xml"),
    ):
        headers[name] = value
    found = [(one.signal, one.detail) for one in find_header_opt_outs(headers, Agents("pairmill"), "u", "now")]
    details = ("/l.xml", 'License error="invalid_token"', "application/rsl+xml")
    assert found == [("rsl", detail) for detail in details]
