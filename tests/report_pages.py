"""What the templates of reports show, with one text in each place."""

from dataops.snapshot import Counts
from tasks.reports.page import Section, make_link


def section(text):
    return Section(text, [text], [text, text], [[text, text], [text, "1"]], numbers=(1,))


def filter_values(text):
    balance = {
        "pairs": 4, "unmatched": 1, "kept": 3, "seen": 2, "queries_found": 1, "queries": 2, "matches_before": 3,
        "matches_after": 2, "effective_before": 1, "effective_after": 1, "unmatched_examples": [text, text],
        "head": [[text, 3, 2.0]], "languages": [{
            "language": text, "queries": 2, "queries_found": 1, "max_per_query": 7, "tail_share": None,
            "matches_before": 3, "matches_after": 2,
        }],
    }  # fmt: skip
    return {
        "title": text, "counts": Counts(input=9, kept=4, dropped={text: 5}), "most_dropped": 5, "balance": balance,
        "steps": [{"name": text, "dropped": 5, "left": 4}], "config": {"mode": text, "max_per_query": 7},
        "reasons": [{"name": text, "dropped": 5, "alone": 6, "examples": [text, text]}], "languages": {text: 1, "": 2},
        "hosts": {f"{text}{n}": 1 for n in range(22)}, "captions": {text: 1}, "curve": [[1, 9, 4]],
        "lengths": {text: 2},
    }  # fmt: skip


def image(text, preview="aGk="):
    return {"caption": text, "url": text, "preview": preview, "drop_reason": text, "size": text}


def download_values(text):
    row = {"url": text, "error_message": text}
    return {
        "title": text, "longest": text, "counts": Counts(input=9, kept=4, dropped={text: 5}), "bytes": 1, "shards": 2,
        "reasons": [{"name": text, "dropped": 5, "examples": [row, row]}],
        "hosts": [{"name": text, "failed": 1, "rows": 2, "reasons": [(text, 1), (text, 2)]}],
        "kept": [image(text)], "dropped": [image(text), image(text, "")],
    }  # fmt: skip


def dataset_values(text):
    side = {
        "stage": text, "kept": 1, "input": 2, "kept_rows": [image(text)], "reasons": {text: 1}, "with_images": True,
        "has_examples": True, "dropped_rows": {text: [image(text, "")]},
    }  # fmt: skip
    return {
        "title": text, "key": text, "headline": text, "seed": 0, "digest": text, "kept": [image(text)], "sources": text,
        "hide_dropped": True, "stages": stages(text),
        "sides": [side, side | {"with_images": False}, side | {"has_examples": False}],
        "rankings": [(text, text, {text: 1})], "histograms": [(text, text, {text: 2})],
        "limits": [text, f"`{text}` is code"], "rights": [text, f"a word `{text}`"], "readers": [(text, text)],
        "citation": text, "recipe": [(text, text, text)],
        "license_titles": [text, text, "pairs", "share"], "license_rows": [(text, text, "4", "9%")],
        "source_rows": [{
            "name": text, "kind": text, "license": text, "files": 1, "extracted": 9, "filtered": 5, "pairs": 4,
            "share": "9%",
        }],
    }  # fmt: skip


def stages(text):
    return [{"stage": text, "input": 9, "kept": 4, "dropped": 5, "reasons": {text: 3, f"{text}2": 2}}]


def evaluation_values(text):
    score = {"task": text, "metric": text, "value": 0.5, "low": 0.4, "high": 0.6, "chance": None, "n": 9, "other": 0.1}
    comparison = {"difference": 0.1, "low": 0.0, "high": 0.2, "verdict": text}
    figure = {"key": text, "preview": "aGk=", "label": text}
    gallery = {"title": text, "figures": [figure | {"miss": None}, figure | {"miss": text, "preview": None}]}
    return {
        "title": text, "side": 112, "average": {"value": None, "tasks": 1, "missing": {text: text}}, "against": text,
        "rows": [score | {"comparison": comparison}, score | {"comparison": None}],
        "overlap": {"clean": [text, text], "sets": 2, "rows": [[text] * 10]},
        "tasks": [{"name": text, "summary": text, "sections": [section(text)], "galleries": [gallery]}],
    }  # fmt: skip


def card_values(text):
    return {
        "headline": text, "description": text, "links": "", "space": "",
        "sections": [section(text), Section(text, rows=[[make_link(text, "a.html"), text]], columns=[text, text])],
    }  # fmt: skip


def summary_values(text):
    field = {
        "name": "provider", "label": text, "who": text, "is_optional": False, "is_pending": False, "state": "filled",
        "verdict": "Yes", "text": [text, f"`{text}` is code"], "stated": [text], "columns": [text, "pairs"],
        "rows": [[text, text]], "numbers": [1],
    }  # fmt: skip
    states = [
        {"state": "open"},
        {"state": "open", "is_optional": True},
        {"is_pending": True},
        {"state": "not_applicable"},
    ]
    return {
        "title": text, "law": text, "counts": text, "since": text,
        "open": [{"section": text, "label": text, "field": "provider", "who": text}],
        "changes": [{"section": text, "label": text, "before": [text], "now": [text]}],
        "sections": [
            {"title": text, "level": 2, "fields": [field, *(field | state for state in states)]},
            {"title": text, "level": 3, "fields": []},
        ],
    }  # fmt: skip


PAGES = {
    "filter.html": filter_values,
    "download.html": download_values,
    "dataset.html": dataset_values,
    "evaluation.html": evaluation_values,
    "summary.html": summary_values,
    "document.html": lambda text: {"title": text, "text": text},
}
FRAGMENTS = {
    "checks.html": lambda text: {"note": text, "rows": [[text, text, text]]},
    "dataset_links.html": lambda text: {"name": text, "run": text, "key": text, "links": {text: "http://m.example/"}},
}
"""Sections that are inserted into a page."""
MARKDOWN = {
    "dataset.md": dataset_values,
    "card.md": card_values,
    "summary.md": summary_values,
}
