"""The page of a filter snapshot follows the manifest, and shows text from the web as text."""

import numpy as np
import polars as pl

from dataops.snapshot import Counts, Manifest
from tasks.filter.summary import (
    merge_balance,
    merge_parts,
    report_html,
    summarise_balanced_slice,
    summarise_slice,
)
from tests.hostile_text import HOSTILE, Page
from tests.manifests import build_manifest


def manifest(**facts) -> Manifest:
    counts = Counts(input=1000, kept=600, dropped={"too_short": 300, "duplicate_url": 100})
    return build_manifest("filter", counts=counts, facts=facts)


def pairs(captions: list[str], url: str = "http://img.example/1.jpg") -> pl.DataFrame:
    rows = {"uid": [f"{i:032x}" for i in range(len(captions))], "url": url, "caption": captions, "language": "en"}
    return pl.DataFrame(rows).with_columns(drop_reason=pl.lit("too_short"))


def test_report_shows_hostile_captions_as_text():
    facts = merge_parts(
        [summarise_slice(pairs([HOSTILE] * 3, f"http://{HOSTILE.replace(' ', '')}/1.jpg"), pairs([HOSTILE]))]
    )
    part = summarise_balanced_slice(pl.Series([HOSTILE]), pairs(["a"]).with_columns(sampling_probability=0.5), 4)
    balance = merge_balance([HOSTILE, "kite", "x"], np.array([50, 2, 0]), np.array([10, 2, 0.0]), [part])
    page = Page(report_html(manifest(**facts, alone={HOSTILE: 7}, balance=balance)))
    assert "script" not in page.tags
    assert page.events == []
    assert "img" not in page.tags
    assert page.text.count("<script>alert(1)</script>") >= 5
    assert page.addresses == []
    assert "\u202e" not in page.text
    assert "\\u202e" in page.text
