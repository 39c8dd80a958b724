import hashlib
from email.message import Message

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dataops.rights.rsl import RSL
from dataops.rights.signals import MAX_DETAIL_CHARS, Agents, Statement, declare, find_header_opt_outs

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
def test_find_reads_challenges(header, challenge):
    assert find("www-authenticate", header) == challenge


def find(name, value):
    return next((one.detail for one in declare(RSL, Statement("header", name, value), "", "")), None)


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
def test_find_reads_link_headers(header, url):
    assert find("link", header) == url


@given(st.text(max_size=200))
@example('"\\')
def test_find_accepts_any_text(header):
    assert find("www-authenticate", f"License, {header}") is not None
    assert find("www-authenticate", header) is None or "license" in header.lower()


def test_find_takes_linear_time_and_keeps_little():  # a quadratic step takes minutes
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
def test_find_reads_the_media_type(name, value, found):
    assert find(name, value) == found


def test_find_header_opt_outs_returns_each_kind_of_declaration_once():
    headers = Message()
    for name, value in (
        ("WWW-Authenticate", "Basic realm=a"),
        ("WWW-Authenticate", 'License error="invalid_token"'),
        ("www-authenticate", "License"),
        ("Link", '</l.xml>; rel="license"; type="application/rsl+xml"'),
        ("Link", "</l.xml>; rel=license; type=application/rsl+xml, </2>;rel=license;type=application/rsl+xml"),
        ("Content-Type", "application/rsl+xml"),
    ):
        headers[name] = value
    found = [(one.signal, one.detail) for one in find_header_opt_outs(headers, Agents("pairmill"), "u", "now")]
    details = ("/l.xml", "/2", 'License error="invalid_token"', "application/rsl+xml")
    assert found == [("rsl", detail) for detail in details]


def test_licences_of_a_header_are_bounded():
    header = ", ".join(f'</{number}>; rel=license; type="application/rsl+xml"' for number in range(10))
    found = [one.detail for one in declare(RSL, Statement("header", "link", header), "", "")]
    assert found == [*(f"/{number}" for number in range(8)), "more than 8 licences"]


def judge(content, url="http://a.test/img/1.png"):
    text = content if "<rsl" in content else f'<rsl xmlns="https://rslstandard.org/rsl">{content}</rsl>'
    parse = RSL.parse
    license_ = parse(text, Agents("pairmill"), URL)
    [found] = RSL.find(Statement("terms", URL, license_, url=url))
    terms, _, digest = found.detail.rpartition("; sha256:")
    assert digest == hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return found.permits, terms


PERMIT = '<permits type="usage">ai-train</permits>'


def site(license_, attributes='url="/"'):
    return f"<content {attributes}><license>{license_}</license></content>"


@pytest.mark.parametrize(
    "content",
    [
        site(PERMIT),
        site('<permits type="usage">train-ai</permits>'),
        site('<permits type="usage">search all</permits>'),
        site('<permits type="USAGE">AI_Train, search</permits>'),
        site("<permits>ai-all</permits>"),
        site(PERMIT + '<payment type="free"/>'),
        site('<payment type="free"><amount currency="USD">0.00</amount></payment>'),
        site(PERMIT + '<legal type="disclaimer">as-is</legal><terms>https://a.test/</terms>'),
        site(PERMIT + '<prohibits type="usage">search</prohibits>'),
        site(PERMIT, "url='*'"),
        site(PERMIT, 'url="http://www.a.test/img/*.png$"'),
        site(PERMIT, ""),
        site(PERMIT, "url=\u201d/\u201d"),  # the standard's own template has these quotation marks
        site('<payment type="purchase"/>') + site(PERMIT, 'url="/img/"'),  # the most specific one counts
        site('<permits type="usage">search</permits><payment type="crawl"/></license><license>' + PERMIT),
        '<rsl:rsl xmlns:rsl="https://rslstandard.org/rsl"><rsl:content url="/"><rsl:license><rsl:permits type="usage">'
        "ai-train</rsl:permits></rsl:license></rsl:content></rsl:rsl>",
    ],
)
def test_terms_that_permit_training_freely_permit_it(content):
    permits, terms = judge(content)
    assert permits, terms
    assert terms.endswith("free of charge")


@pytest.mark.parametrize(
    ("content", "terms"),
    [
        (site('<prohibits type="usage">train-ai</prohibits>'), "prohibits train-ai"),
        (site(PERMIT + '<prohibits type="usage">ai-all</prohibits>'), "prohibits ai-all"),
        (site('<prohibits type="usage">all</prohibits>') + site(PERMIT, 'url="/img/"'), "prohibits all"),
        *((site(PERMIT + f'<payment type="{kind}"/>'), f"payment {kind}") for kind in (
            "purchase", "subscription", "training", "crawl", "use", "contribution", "attribution", "new-kind"
        )),
        (site(PERMIT + "<payment/>"), "payment of an unknown kind"),
        (site(PERMIT + '<payment type="free"><amount currency="EUR">0.01</amount></payment>'), "amount 0.01 EUR"),
        (site('<permits type="usage">search ai-input</permits>'), "permits only ai-input, search"),
        (site(PERMIT + '<permits type="user">non-commercial</permits>'), "permits user non-commercial"),
        (site(PERMIT + '<prohibits type="geo">US</prohibits>'), "prohibits geo us"),
        (site(PERMIT + "<reporting/>"), "reporting"),
        (site(PERMIT, 'url="/" server="https://l.test/"'), "a token of https://l.test/"),
        (site(PERMIT, 'url="/" encrypted="true"'), "a token of its server, as the content is encrypted"),
        (site(PERMIT, 'url="/other/"'), "no terms for this URL"),
        (site(PERMIT, 'url="https://b.test/"'), "no terms for this URL"),
        (site(""), "no permission"),
        ('<content url="/"/>', "no permission"),
        ("", "its terms cannot be read"),
        ("<rsl><content", "its terms cannot be read"),
        ("<html>not found</html><rsl/>", "its terms cannot be read"),
        ('<!DOCTYPE rsl [<!ENTITY a "b">]><rsl>' + site(PERMIT) + "</rsl>", "its terms cannot be read"),
    ],
)  # fmt: skip
def test_other_terms_reserve_and_are_named(content, terms):
    assert judge(content) == (False, terms)


@given(st.text(max_size=300))
def test_any_text_of_a_licence_is_read(text):
    assert judge(f"<rsl>{text}<")[0] is False
