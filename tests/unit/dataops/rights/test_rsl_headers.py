from email.message import Message

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dataops.rights.ai_preferences import MAX_DETAIL_CHARS
from dataops.rights.opt_out_headers import find_header_opt_outs
from dataops.rights.rsl_headers import find_license_challenge, find_rsl

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
def test_find_license_challenge_reads_challenges(header: str, challenge: str | None) -> None:
    assert find_license_challenge(header) == challenge


@given(st.text(max_size=200))
@example('"\\')
@settings(max_examples=100, deadline=None)
def test_find_license_challenge_accepts_any_text(header: str) -> None:
    assert find_license_challenge(f"License, {header}") is not None
    assert find_license_challenge(header) is None or "license" in header.lower()


def test_find_license_challenge_takes_linear_time_and_keeps_little() -> None:
    for unit in ('"', '\\"', '"\\', ",", "a", " ", "=", "a ", "License=", '",'):
        assert (
            find_license_challenge("Basic " + unit * (300_000 // len(unit))) is None
        )  # a quadratic step takes minutes
    assert len(find_license_challenge("License " + "a" * 300_000) or "") == MAX_DETAIL_CHARS


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("link", '</l.xml>; rel="license"; type="application/rsl+xml"', "/l.xml"),
        ("www-authenticate", "License", "License"),
        ("content-type", "Application/RSL+XML; charset=utf-8", "application/rsl+xml"),
        ("content-type", "application/xml", None),
        ("authorization", "License a", None),
    ],
)
def test_find_rsl_reads_each_field(name: str, value: str, found: str | None) -> None:
    assert find_rsl(name, value) == found


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
    found = [(one.signal, one.detail) for one in find_header_opt_outs(headers, "pairmill", frozenset(), "u", "now")]
    details = ("/l.xml", 'License error="invalid_token"', "application/rsl+xml")
    assert found == [("rsl", detail) for detail in details]
