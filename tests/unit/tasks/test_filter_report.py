"""The page of a filter: it says what the manifest says, and what comes from the web is text."""

from html.parser import HTMLParser

import numpy as np
import polars as pl

from dataops.snapshot import Counts, Manifest
from tasks import filter_summary
from tasks.filter_report import report_html
from tasks.filter_summary import EXAMPLES, add_up, describe, describe_balance

HOSTILE = "<script>alert(1)</script> \"x\" 'y' & <img src=x onerror=alert(2)>"


class Page(HTMLParser):
    def __init__(self, page: str):
        super().__init__()
        self.tags: list[str] = []
        self.events: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.events += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


def manifest(**facts) -> Manifest:
    counts = Counts(input=1000, kept=600, dropped={"too_short": 300, "duplicate_url": 100})
    known = {"stage_version": 1, "key": "0" * 16, "inputs": [], "config": {}, "seed": 0, "code": {}, "parts": []}
    return Manifest(stage="filter", counts=counts, facts=facts, content_digest="", created_at="", **known)


def pairs(captions: list[str], url: str = "http://img.example/1.jpg") -> pl.DataFrame:
    rows = {"uid": [f"{i:032x}" for i in range(len(captions))], "url": url, "caption": captions, "language": "en"}
    return pl.DataFrame(rows).with_columns(drop_reason=pl.lit("too_short"))


def test_what_comes_from_the_web_is_text():
    facts = add_up([describe(pairs([HOSTILE] * 3, f"http://{HOSTILE.replace(' ', '')}/1.jpg"), pairs([HOSTILE]))])
    balance = describe_balance(np.array([50, 2, 0]), np.array([10, 2, 0]))
    page = Page(report_html(manifest(**facts, alone={HOSTILE: 7}, balance=balance), [HOSTILE, "kite", "x"]))
    assert "script" not in page.tags
    assert page.events == []
    assert page.tags.count("img") == 2, "the two plots"
    assert page.text.count("<script>alert(1)</script>") >= 4


def test_it_says_what_the_manifest_says():
    facts = add_up([describe(pairs(["a red kite", "a kite"]), pairs(["x", "y", "z", "v", "w"]))] * 2)
    assert facts["languages"] == {"en": 4}
    assert facts["captions"] == {"a kite": 2, "a red kite": 2}
    assert len(facts["examples"]["too_short"]) == EXAMPLES
    page = Page(report_html(manifest(**facts, alone={"too_short": 350})))
    for said in (
        "600 of 1,000 pairs kept (60.0%)",
        "too_short",
        "300",
        "350",
        "duplicate_url",
        "img.example",
        "a red kite",
    ):
        assert said in page.text, said


def test_what_is_frequent_is_found_among_more_than_can_be_held(monkeypatch):
    monkeypatch.setattr(filter_summary, "_HELD", 10)
    parts = [pairs(["a kite"] * 3 + ["a dog"] * 2 + [f"number {part} {i}" for i in range(8)]) for part in range(9)]
    facts = add_up(describe(part, part.clear()) for part in parts)
    assert list(facts["captions"].items())[:2] == [("a kite", 27), ("a dog", 18)]
    assert len(facts["captions"]) <= 10


def test_of_many_captions_the_most_frequent_are_told(monkeypatch):
    monkeypatch.setattr(filter_summary, "_PER_PART", 4)
    said = ["d", "c", "b", "a", "e", "b", "c", "c"]
    assert list(describe(pairs(said), pairs(["x"]))["captions"].items()) == [("c", 3), ("b", 2), ("a", 1), ("d", 1)]
    assert describe(pairs(["x", "y"]), pairs(["z"]))["captions"] == {"x": 1, "y": 1}


def test_the_curve_over_queries():
    before, after = np.array([5, 100, 0, 20]), np.array([5, 10, 0, 10])
    facts = describe_balance(before, after)
    assert facts["curve"] == [[1, 100, 10], [2, 20, 10], [3, 5, 5], [4, 0, 0]]
    assert facts["head"] == [1, 3, 0]
    assert (facts["queries"], facts["queries_found"], facts["matches_before"], facts["matches_after"]) == (
        4,
        3,
        125,
        25,
    )
    assert facts["effective_before"] < facts["effective_after"] < 3
