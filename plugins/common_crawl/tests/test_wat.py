"""The WAT reader returns what a slow reference extractor returns, and skips only bad records."""

import gzip
import io
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataops.archives.members import Damage
from dataops.web.page_pairs import PageBounds
from plugins.common_crawl.tests.reference_wat import reference_rows
from plugins.common_crawl.wat import extract_wat_pairs, read_wat
from tests.wat_files import json_record, page_value, plain_record, record, warcinfo, write_wat

BOUNDS = PageBounds(2000, 4096)
PAIR_COLUMNS = ["url", "caption", "caption_source", "drop_reason", "license", "declared_width", "declared_height"]
OPT_OUT = frozenset({"noai", "noimageai", "noimageindex"})


def actual_rows(data):
    counts = Counter()
    found = list(read_wat(io.BytesIO(data), BOUNDS.url, lambda what: counts.update([what])))
    damages = [one for one in found if isinstance(one, Damage)]
    pages = [one for one in found if not isinstance(one, Damage)]
    if not pages:
        return [], damages, counts
    table, origins = extract_wat_pairs(pages, BOUNDS, OPT_OUT)
    columns = table.select(PAIR_COLUMNS).to_pydict().values()
    of_pages = [origins[page] for page in table["page"].to_pylist()]
    page_columns = [(one.page_url, one.page_language, one.page_opt_out) for one in of_pages]
    rows = [(*row, *origin) for row, origin in zip(zip(*columns, strict=True), page_columns, strict=True)]
    return rows, damages, counts


def page(number, *links, **head):
    url = f"https://site.example/{number}/"
    return json_record(url, page_value(url, {"Links": list(links), "Head": head}))


def image(name, alt):
    return {"path": "IMG@/src", "url": name, "alt": alt}


def test_extract_wat_pairs_equals_the_reference_on_a_whole_file(tmp_path):
    path = tmp_path / "generated.wat.gz"
    assert write_wat(path, 600) >= 600
    rows = actual_rows(path.read_bytes())[0]
    assert rows
    assert rows == reference_rows(path.read_bytes())


texts = st.text(max_size=20) | st.sampled_from(
    ["license", "noai, noindex", "1", "http://a.example/x.jpg", "  two  spaces\n"]
)
odd = st.none() | st.booleans() | st.integers(-5, 10**20) | st.floats(allow_nan=False) | st.lists(texts, max_size=2)
values = texts | odd
urls = st.sampled_from(
    ["/a.jpg", "b/c.png?d=e", "../up.gif", "//cdn.example/x y.jpg", "data:x", "", "http://[bad", "x#y", "ü.jpg"]
)
link = st.fixed_dictionaries(
    {"path": st.sampled_from(["IMG@/src", "IMG@/src", "A@/href", "img@/src"]) | values},
    optional={
        "url": urls | values,
        "alt": values,
        "title": values,
        "rel": st.sampled_from(["license", "nofollow"]) | values,
    },
)
names = st.sampled_from(["robots", "og:image", "og:title", "og:description", "OG:Image:Alt", "HTML@/lang", "googlebot"])
meta = st.fixed_dictionaries(
    {}, optional={"name": names | values, "property": names | values, "content": urls | values}
)
heads = st.fixed_dictionaries(
    {},
    optional={
        "Base": urls | values,
        "Metas": st.lists(meta | values, max_size=5) | odd,
        "Link": st.lists(link, max_size=2),
    },
)
htmls = st.fixed_dictionaries({}, optional={"Head": heads | odd, "Links": st.lists(link | values, max_size=6) | odd})
headers = st.dictionaries(
    st.sampled_from(["X-Robots-Tag", "x-robots-tag", "TDM-Reservation", "Server"]), values, max_size=3
)


@given(st.lists(st.tuples(htmls | odd, headers | odd), min_size=1, max_size=3), st.booleans())
def test_extract_wat_pairs_equals_the_reference_on_any_json(pages, escaped):
    data = warcinfo()
    for html, header in pages:
        value = page_value("https://site.example/folder/page", {}, {})
        response = value["Envelope"]["Payload-Metadata"]["HTTP-Response-Metadata"]
        response["HTML-Metadata"], response["Headers"] = html, header
        data += record(
            "https://site.example/", json.dumps(value, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
        )
    assert actual_rows(data)[0] == reference_rows(data)


GOOD = [page(i, image("a.jpg", f"A picture of the number {i}")) for i in range(3)]
DEEP = b'{"Envelope":' + b"[" * 200_000


@pytest.mark.parametrize(
    ("bad", "reasons"),
    [
        (record("http://a.example/", b"[1, 2]"), {"bad_json"}),
        (record("http://a.example/", b'{"Envelope": {'), {"bad_json"}),
        (record("http://a.example/", b""), {"bad_json"}),
        (record("http://a.example/", b"\xff\xfe\x00"), {"bad_json"}),
        (record("http://a.example/", DEEP), {"bad_json"}),
        (json_record("x", page_value("no address", {"Links": [image("a.jpg", "x")]})), {"bad_page_url"}),
        (gzip.compress(b"no record at all, but text that is long enough"), {"bad_record"}),
        (b"not even gzip", {"bad_record"}),
        (page(9, image("b.jpg", "broken"))[:-30], {"bad_record"}),
        *(
            (
                gzip.compress(plain_record("http://a.example/", b'{"a": 1}').replace(b"Content-Length: 8", length)),
                {"bad_length"},
            )
            for length in (b"X-Length: 8", b"Content-Length: 90", b"Content-Length: 3")
        ),
    ],
    ids=range(12),
)
def test_read_wat_skips_only_the_bad_record(bad, reasons):
    data = warcinfo() + GOOD[0] + bad + GOOD[1] + GOOD[2]
    rows, damages, _ = actual_rows(data)
    assert [row[1] for row in rows] == [f"A picture of the number {i}" for i in range(3)]
    assert {damage.reason for damage in damages} == reasons
    assert [damage.offset for damage in damages] == [len(warcinfo() + GOOD[0])]


def test_read_wat_repairs_and_reports_invalid_text():
    surrogates = json.dumps(
        page_value("https://a.example/", {"Links": [image("a\ud800.jpg", "one \udfff two\0 three")]})
    )
    data = warcinfo() + record("https://a.example/", surrogates.encode())
    data += record(
        "https://b.example/",
        json.dumps(page_value("https://b.example/", {"Links": [image("b", "caf\xe9")]}), ensure_ascii=False).encode(
            "latin-1"
        ),
    )
    rows, damages, _ = actual_rows(data)
    assert [row[1] for row in rows] == ["one two three", "caf\ufffd"]
    assert [damage.reason for damage in damages] == ["odd_json", "odd_json"]


@pytest.mark.parametrize(
    ("head", "headers", "directives"),
    [
        ({"Metas": [{"name": "Content-Usage", "content": "train-ai=n"}]}, {}, "content-usage"),
        ({"Metas": [{"http-equiv": "content-signal", "content": "ai-train=no"}]}, {}, "content-signal"),
        (
            {"Link": [{"rel": "license", "type": "application/rsl+xml", "url": "/l.xml"}]},
            {},
            "rsl:https://site.example/l.xml",
        ),
        ({"Link": [{"rel": "license", "type": "application/rsl+xml"}]}, {}, "rsl"),
        ({}, {"Content-Usage": "train-ai=n", "content-signal": "ai-train=no"}, "content-signal,content-usage"),
        (
            {},
            {"Link": ["</a>; rel=x", '</l.xml>; rel="license"; type="application/rsl+xml"']},
            "rsl:https://site.example/l.xml",
        ),
        ({"Metas": [{"name": "content-usage", "content": "train-ai=y"}]}, {"Content-Signal": "search=no"}, None),
        ({"Link": [{"rel": "license", "type": "text/html", "url": "/l.xml"}]}, {}, None),
    ],
)
@pytest.mark.parametrize("is_odd", [False, True])
def test_extract_wat_pairs_reads_ai_preferences(head, headers, directives, is_odd):
    url = "https://site.example/"
    html = {"Links": [image("a.jpg", "An image")], "Head": head | ({"Base": 1} if is_odd else {})}
    data = json_record(url, page_value(url, html, headers))
    rows, damages, _ = actual_rows(data)
    assert rows == reference_rows(data, OPT_OUT)
    assert [row[9] for row in rows] == [directives]
    assert len(damages) == is_odd
