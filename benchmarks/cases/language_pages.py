"""Measure which captions `filter.languages = ["en"]` keeps on synthetic sites whose captions are real texts."""

import random
from collections import defaultdict
from collections.abc import Mapping
from itertools import count
from typing import Any

import polars as pl

from benchmarks.inputs.texts import Labelled
from tasks.filter.config import FilterConfig
from tasks.filter.language import detect_languages

OTHERS = ["af", "cs", "da", "de", "es", "fi", "fr", "hu", "id", "it", "nl", "no", "pl", "pt", "ro", "sv", "tr"]
"""Languages of the sites that are not English; all write Latin letters, as English does."""
LAYOUTS = {"1 page of 1": (1, 1), "1 page of 10": (1, 10), "10 pages of 1": (10, 1), "10 pages of 10": (10, 10)}
"""Number of pages of a site, and of captions of a page."""
DECLARED = ("right", "none", "all en", "English as de")
"""What pages declare: their language, nothing, always English (a template), or German on English pages."""
SETTINGS: dict[str, dict[str, Any]] = {
    "caption": {"language_page_weight": 0},
    "page, 0.5": {"language_page_weight": 0.5},
    "page, 0.8": {"language_page_weight": 0.8},
    "default": {},
}
"""Settings of the filter that are compared."""

_Row = tuple[str, str, str, str | None]  # language, caption, page URL, declared language


def measure_pages(sets: Mapping[str, Labelled], sites: int) -> list[dict[str, Any]]:
    """Return a row for each layout and declaration: the share of English and of other captions that each setting keeps.

    Args: sites: number of English sites of each set; there are as many of other languages.
    """
    by_language = [_group(labelled) for labelled in sets.values()]
    found = []
    for layout, shape in LAYOUTS.items():
        for declared in DECLARED:
            rows = _make_sites(by_language, shape, sites, declared)
            found.append({"layout": layout, "declared": declared} | _measure(rows))
    for declared in ("right", "none"):
        rows = _make_mixed(by_language, sites, declared)
        found.append({"layout": "1 page of 9 + 1 foreign", "declared": declared} | _measure(rows))
    return found


def _group(labelled: Labelled) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for language, text in sorted(set(labelled)):
        found[language].append(text)
    return found


def _declare(declared: str, language: str) -> str | None:
    if declared == "English as de":
        return "de" if language == "en" else language
    return {"right": language, "none": None, "all en": "en"}[declared]


def _make_sites(
    by_language: list[dict[str, list[str]]], shape: tuple[int, int], sites: int, declared: str
) -> list[_Row]:
    pages, captions = shape
    draw, hosts, rows = random.Random(0), count(), []
    for texts in by_language:
        usable = [language for language in OTHERS if len(texts.get(language, ())) >= pages * captions]
        if len(texts.get("en", ())) < pages * captions or not usable:
            continue
        for language in ["en"] * sites + [usable[i % len(usable)] for i in range(sites)]:
            host = next(hosts)
            for i, text in enumerate(draw.sample(texts[language], pages * captions)):
                url = f"http://{host}.example/{i // captions}"
                rows.append((language, text, url, _declare(declared, language)))
    return rows


def _make_mixed(by_language: list[dict[str, list[str]]], sites: int, declared: str) -> list[_Row]:
    """Return English pages with nine English captions and a foreign one."""
    draw, hosts, rows = random.Random(0), count(), []
    for texts in by_language:
        usable = [language for language in OTHERS if texts.get(language)]
        if len(texts.get("en", ())) < 9 or not usable:
            continue
        for i in range(sites):
            language, url = usable[i % len(usable)], f"http://{next(hosts)}.example/"
            captions = [("en", text) for text in draw.sample(texts["en"], 9)]
            captions.append((language, draw.choice(texts[language])))
            rows += [(code, text, url, _declare(declared, "en")) for code, text in captions]
    return rows


def _measure(rows: list[_Row]) -> dict[str, Any]:
    frame = pl.DataFrame(rows, schema=["code", "caption", "page_url", "page_language"], orient="row")
    is_english = frame["code"] == "en"
    found: dict[str, Any] = {"captions": frame.height}
    for name, setting in SETTINGS.items():
        kept = ~detect_languages(frame, FilterConfig(languages=["en"], **setting))["foreign"]
        recall, leak = float(kept.filter(is_english).mean()), float(kept.filter(~is_english).mean())
        # Precision is that of equal numbers of English and other captions.
        precision = recall / (recall + leak) if recall + leak else None
        found[name] = {
            "recall": round(recall, 4),
            "others": round(leak, 4),
            "precision": None if precision is None else round(precision, 4),
        }
    return found
