import pytest

from dataops.web.page_pairs import PageBounds
from dataops.web.pages import extract_page_pairs

BOUNDS = PageBounds(caption=100, url=200)
OPT_OUT = frozenset({"noai", "noimageai"})


@pytest.mark.parametrize(
    ("head", "opted_out"),
    [
        ('<meta name="robots" content="noai, noimageai">', True),
        ('<META NAME=" Robots " CONTENT="index,NoImageAI">', True),
        ('<meta name="robots" content="index, follow">', False),
        ('<meta name="description" content="noai">', False),
        ('<meta name="robots">', False),
        ("", False),
    ],
)
def test_a_page_that_opts_out_loses_its_rows_with_that_reason(head, opted_out):
    html = f'<html><head>{head}</head><body><img src="a.png" alt="a dog"><img src="b.png"></body></html>'
    rows = extract_page_pairs(html.encode(), "http://x.example/", BOUNDS, OPT_OUT).pairs
    assert [row.reason for row in rows] == ["opt_out" if opted_out else None, "no_caption"]
    assert all(row.reason != "opt_out" for row in extract_page_pairs(html.encode(), "http://x.example/", BOUNDS).pairs)
