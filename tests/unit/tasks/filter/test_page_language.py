"""Checks the language of captions with and without the weight of their page."""

import polars as pl
import pytest

from dataops.schema import uid
from dataops.snapshot import read_parts
from dataops.store import FolderStore
from tasks.filter import language as filter_language
from tasks.filter.config import FilterConfig
from tests.filter_runs import filtered, kept


def keep_english(pages, sizes=None, **config):
    """Return the captions that are detected as English, of pages (URL, declared language, captions)."""
    rows = [{"caption": text, "page_url": url, "page_language": tag} for url, tag, texts in pages for text in texts]
    frame = pl.DataFrame(rows, schema={"caption": pl.String, "page_url": pl.String, "page_language": pl.String})
    found = filter_language.detect_languages(frame, FilterConfig(languages=["en"], **config), **sizes or {})
    assert found.height == frame.height
    return frame.filter(~found["foreign"])["caption"].to_list()


ENGLISH = ["A green apple.", "A cat", "a red balloon", "house with garden", "Two dogs on a beach", "An old red barn"]
GERMAN = ["Ein grüner Apfel.", "Eine Katze", "Die Katze schläft", "Haus mit Garten", "Zwei Hunde am Strand"]


def test_sites_and_rows_without_a_page_are_no_evidence_for_each_other():
    own = [text for text in [*ENGLISH, *GERMAN] if keep_english([(None, None, [text])])]
    assert keep_english([(None, None, [*ENGLISH, *GERMAN])]) == own
    beside = [
        ("http://x.example/", None, ENGLISH),
        ("http://y.example/", None, ["A green apple."]),
        (None, None, ["A cat"]),
    ]
    assert keep_english(beside) == ENGLISH
    assert keep_english(beside, language_page_weight=0.8) == ENGLISH


@pytest.mark.parametrize("weight", [0.0, 0.8, None])
def test_a_caption_in_a_script_of_no_candidate_has_no_language(tmp_path, weight):
    """Detect no language, not even on an English page."""
    captions = ["a red apple on the table", "แอปเปิ้ลสีแดง", "the house with a garden and a dog", "123456789"]
    rows = [{"uid": uid(f"{i}", c), "url": f"http://x.example/{i}", "caption": c} for i, c in enumerate(captions)]
    config = {"languages": ["en"], "language_candidates": ["en", "de"], "language_page_weight": weight}
    manifest = filtered(tmp_path, rows, 1, **config)
    dropped = read_parts(FolderStore(tmp_path), manifest, "dropped-").to_pylist()
    thai = next(row for row in dropped if row["caption"] == captions[1])
    assert (thai["drop_reason"], thai["language"], thai["language_score"]) == ("language", None, 0.0)
    assert captions[0] in [row["caption"] for row in kept(tmp_path, manifest)]
