import polars as pl
import pyarrow as pa
import pytest

from dataops import plugins
from dataops.filters import evaluate_rules, first_drop_reason
from dataops.rules.captions import mask_personal_data
from dataops.rules.urls import host
from dataops.schema import PAIRS
from tasks.filter.config import FilterConfig

BOUNDS = FilterConfig(max_chars=60, min_words=2, max_words=12, min_letter_fraction=0.5, max_url_chars=60)
OFF = FilterConfig(
    min_words=0,
    **{"min_chars": 0, "max_chars": None, "max_words": None, "min_letter_fraction": 0, "max_repeated_fraction": None},
    **{"drop_file_names": False, "drop_dates_and_sizes": False, "personal": "keep", "max_url_chars": None},
    **{"blocked_extensions": [], "drop_tracking": False, "opt_out": []},
)


def table(rows):
    return pl.from_arrow(pa.Table.from_pylist([dict.fromkeys(PAIRS.names) | row for row in rows], schema=PAIRS))


def reason(config=BOUNDS, **row):
    rows = table([{"url": "http://a.example/1.jpg", "caption": "a red kite"} | row])
    return first_drop_reason(evaluate_rules(rows, config)).to_list()[0]


def test_each_rule_is_registered_by_its_reason_and_has_a_place_of_its_own():
    rules = plugins.load("rules")
    assert [name for name, rule in rules.items() if name != rule.reason.removesuffix("_NAME")] == []
    assert len({rule.order for rule in rules.values()}) == len(rules)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a red kite", None),
        ("a\u0301 b", None),
        ("", "too_short"),
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
        ("12 / 34 x", "date_or_size"),
        ("★★★ ok", "few_letters"),
    ],
)
def test_caption_rules_give_the_drop_reason(caption, expected):
    assert reason(caption=caption) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://a.example/logo.svg", "url_extension"),
        ("http://a.example/LOGO.SVG?v=2", "url_extension"),
        ("http://a.example/?file=logo.svg", None),
        ("http://a.example/svg/logo.png", None),
        ("http://a.example/" + "x" * 60, "url_too_long"),
    ],
)
def test_url_rules_give_the_drop_reason(url, expected):
    assert reason(url=url) == expected


def test_rules_drop_nothing_when_all_are_off():
    rows = [{"url": "http://a.example/x.svg", "caption": ""}, {"url": "", "caption": "1"}]
    rows += [{"url": "http://a.example/pixel.gif", "caption": "IMG_2034.jpg", "page_opt_out": "noai"}]
    assert evaluate_rules(table(rows), OFF).columns == ["too_short", "too_few_words"]
    assert first_drop_reason(evaluate_rules(table(rows), OFF)).to_list() == [None] * 3


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("Write to jane.doe@mail.example.org today", "personal"),
        ("see www.shop.example for more", "personal"),
        ("Please call our shop: +49 (30) 1234-5678 now", "personal"),
        ("Open daily, tel. 030 123456", "personal"),
        ("House at 12 Old Mill Road", "personal"),
        ("Das Haus in der Lindenstraße 12", "personal"),
        ("A car of 1967 with 200 hp at 12 o'clock", None),
        ("The @ sign and a 1998 2004 2012 timeline", None),
        ("kite kite kite kite", "repeated_words"),
        ("the man and the dog and the kite", None),
        ("12 May 2021", "date_or_size"),
        ("800 x 600 px", "date_or_size"),
        ("2021-05-12 10:31", "date_or_size"),
        ("3Sept.2021", "date_or_size"),
        ("octopus", None),
        ("St. Martin", None),
        ("jungle 12", None),
        ("May flowers 2021", None),
        ("Second of March", None),
        ("A RED KITE", None),
    ],
)
def test_caption_rules_drop_captions_without_content_or_with_personal_data(caption, expected):
    assert reason(FilterConfig(), caption=caption) == expected


@pytest.mark.parametrize(
    ("config", "row", "expected"),
    [
        ({"drop_capitals": True}, {"caption": "A RED KITE"}, "all_capitals"),
        ({"drop_capitals": True}, {"caption": "赤い凧と空"}, None),
        ({"patterns": {"shop": "(?i)buy now"}}, {"caption": "Buy now: kites"}, "pattern_shop"),
        ({"personal": "mask"}, {"caption": "mail a@b.org please"}, None),
        ({"blocked_domains": ["b.example"]}, {"url": "http://img.B.example:80/x.jpg"}, "blocked_domain"),
        ({"blocked_domains": ["b.example"]}, {"url": "http://b.example/x.jpg"}, "blocked_domain"),
        ({"blocked_domains": ["b.example"]}, {"url": "http://ab.example/b.example/x.jpg"}, None),
        ({"allowed_domains": ["b.example", "c.org"]}, {"url": "http://c.org/x.jpg"}, None),
        ({"allowed_domains": ["b.example"]}, {"url": "http://[::1]/x.jpg"}, "not_allowed_domain"),
        ({}, {"url": "http://a.example/img/spacer.gif"}, "tracking"),
        ({}, {"url": "http://stats.doubleclick.net/x.jpg"}, "tracking"),
        ({}, {"url": "http://a.example/pixel-art.gif"}, None),
        ({}, {"declared_width": 1, "declared_height": 1}, "tracking"),
        ({}, {"page_opt_out": "noai,noindex"}, "opt_out"),
        ({}, {"page_opt_out": "noindex"}, None),
        ({}, {"page_opt_out": "content-usage,noindex"}, "opt_out"),
        ({}, {"page_opt_out": "rsl"}, "opt_out"),
        ({}, {"page_opt_out": "noindex,rsl:https://a.example/l.xml"}, None),
        ({"opt_out": ["rsl"]}, {"page_opt_out": "content-signal"}, None),
        ({"opt_out": ["noindex"]}, {"page_opt_out": "noai,noindex"}, "opt_out"),
        ({"allow_licenses": ["https://creativecommons.org/licenses/by/"]}, {}, "license"),
        (
            {"allow_licenses": ["https://creativecommons.org/licenses/by/"]},
            {"license": "http://creativecommons.org/licenses/by/4.0/"},
            None,
        ),
        (
            {"allow_licenses": ["creativecommons.org/licenses/by/"]},
            {"license": "https://creativecommons.org/licenses/by-nc/4.0/"},
            "license",
        ),
        ({"min_declared_side": 64}, {"declared_width": 500, "declared_height": 63}, "declared_too_small"),
        ({"min_declared_side": 64}, {"declared_width": 64}, None),
        ({"max_declared_aspect": 3}, {"declared_width": 301, "declared_height": 100}, "declared_aspect"),
        ({"max_declared_aspect": 3}, {"declared_width": 301}, None),
    ],
)
def test_optional_rules_give_the_drop_reason(config, row, expected):
    assert reason(FilterConfig(**config), **row) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://A.example/x", "a.example"),
        ("https://a.example", "a.example"),
        ("https://a.example?x=http://b.example/", "a.example"),
        ("http://a.example:8080/x", "a.example"),
        ("http://me:secret@a.example:80/x@b", "a.example"),
        ("http://me@a.example/x", "a.example"),
        ("http://a.example/x@b.example/", "a.example"),
        ("http://[::1]:80/x", "[::1]"),
        ("http:///x", ""),
        ("ftp://a.example/", None),
        (None, None),
    ],
)
def test_host_returns_the_host_of_a_url(url, expected):
    frame = pl.DataFrame({"url": [url]}, schema={"url": pl.String})
    assert frame.select(host(pl.col("url"))).item() == expected


def test_mask_personal_data_replaces_addresses_and_telephone_numbers():
    captions = pl.DataFrame({"caption": ["mail jane@doe.org or +1 212-555-0199!", "a red kite"]})
    assert captions.select(mask_personal_data(pl.col("caption"))).to_series().to_list() == [
        "mail <private> or <private>!",
        "a red kite",
    ]
