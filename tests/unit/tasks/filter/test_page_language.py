"""Checks the language of captions with and without the weight of their page."""

import polars as pl
import pyarrow as pa
import pytest

from dataops.schema import PAIRS, uid
from dataops.snapshot import Draft, read_table
from dataops.store import FolderStore
from tasks.filter import language as filter_language
from tasks.filter.config import FilterConfig
from tasks.filter.steps import FilterJob, FilterStep, PartSlice, apply_rules, drop_duplicates
from tasks.filter.write import write_parts


def run_steps(draft: Draft, config: FilterConfig, rows: int) -> None:
    """Run the steps that decide by rows and by uid, over one part."""
    job = FilterJob(config, rows, batches=1, seen_batches=0, partitions=1, memory_bytes=1 << 30)
    part = PartSlice(0, draft.path("in.parquet"), 0, 0, rows, 0, 0)
    for function, inputs in ((apply_rules, (part,)), (drop_duplicates, ()), (write_parts, (part,))):
        function(draft, FilterStep(function, 0, job, inputs))


def keep_english(pages: list[tuple[str | None, str | None, list[str]]], sizes: dict[str, int] | None = None, **config):
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


def test_evidence_does_not_depend_on_the_order_of_rows_or_on_repeated_captions():
    texts = [*ENGLISH, *GERMAN]
    pages = [(f"http://x.example/{i % 3}", "en", [text]) for i, text in enumerate(texts)]
    assert sorted(keep_english(pages[::-1])) == sorted(keep_english(pages))
    once = keep_english([("http://x.example/", "en", [*GERMAN, "A green apple."])])
    repeated = keep_english([("http://x.example/", "en", [*GERMAN, *["A green apple."] * 20])])
    assert len(once) == len(set(repeated))


@pytest.mark.parametrize("weight", [0.0, 0.8, None])
def test_a_caption_in_a_script_of_no_candidate_has_no_language(tmp_path, weight):
    """Detect no language, not even on an English page."""
    draft = Draft(FolderStore(tmp_path), "filter", "k")
    captions = ["a red apple on the table", "แอปเปิ้ลสีแดง", "the house with a garden and a dog", "123456789"]
    rows = [{"uid": uid(f"{i}", c), "url": f"http://x.example/{i}", "caption": c} for i, c in enumerate(captions)]
    draft.put_table("in.parquet", pa.Table.from_pylist(rows, schema=PAIRS))
    settings = FilterConfig(languages=["en"], language_candidates=["en", "de"], language_page_weight=weight)
    run_steps(draft, settings, len(rows))
    dropped = read_table(draft.store, draft.path("dropped-00000.parquet")).to_pylist()
    thai = next(row for row in dropped if row["caption"] == captions[1])
    assert (thai["drop_reason"], thai["language"], thai["language_score"]) == ("language", None, 0.0)
    assert captions[0] in read_table(draft.store, draft.path("part-00000.parquet"))["caption"].to_pylist()
