"""The pages of a dataset follow the manifests, show text from the web as text, and are covered by no digest."""

import re
from pathlib import Path

from dataops.snapshot import UNDIGESTED, content_digest
from tests.hostile_text import HOSTILE, Page
from tests.unit.tasks.dataset_chain import dropped_pairs, packed_in, pair, some_pairs


def test_html_page_shows_the_whole_funnel_and_pairs_for_each_reason(tmp_path: Path) -> None:
    store, manifests = packed_in(tmp_path, [*some_pairs(), *dropped_pairs()])
    page = Page(store.read(manifests["pack"].path("dataset.html")).decode())
    for kept in ("30 of 33", "23 of 30", "20 of 23", "17 of 20", "17 of 17"):
        assert kept in page.text
    for reason in ("page_opt_out", "too_short", "http_404", "too_large", "too_small", "near_duplicate"):
        assert len(re.findall(rf"{reason}(?!_)", page.text)) == 2, "in the funnel, and beside examples"
    assert page.text.count("no example available") == 0
    assert page.tags.count("img") == 17 + 3 + 6 + 3 + 6, (
        "kept pairs; dropped ones of download and of curate, each beside some kept pairs"
    )
    for caption in ("caption 100 ", "caption 120 ", "caption 3 ", "caption 8 "):
        assert caption in page.text
    assert len(re.findall(r"c11\d", page.text)) == 4
    assert "17 pairs of image and caption in 1 shard," in page.text
    assert "2 source files of kind warc" in page.text
    assert manifests["pack"].content_digest in page.text, "to cite it by"
    assert "For 8 of 17 pairs a licence was declared" in page.text
    assert re.search(r"licenses/by/4\.0/\s*attribution\s*8\s*47\.1%", page.text)
    assert "47.1% of the pairs (8 of 17) are declared with the term attribution (CC BY 4.0: 8)" in page.text
    assert "Images of evaluation sets were not searched for" in page.text
    assert "Near-duplicate images were not searched for" not in page.text


def test_pages_show_hostile_pairs_as_text(tmp_path: Path) -> None:
    bad = {"caption": HOSTILE, "license": f"http://{HOSTILE}", "source": f"/x/{HOSTILE}", "language": HOSTILE}
    pairs = [pair(n, **bad) for n in range(5)]
    pairs += [pair(n, HOSTILE, stage, **bad) for n, stage in enumerate(("extract", "filter", "download", "curate"), 10)]
    store, manifests = packed_in(tmp_path, pairs)
    page = Page(store.read(manifests["pack"].path("dataset.html")).decode())
    assert "script" not in page.tags
    assert page.events == []
    assert set(page.addresses) == {"src"}
    assert page.tags.count("img") == page.addresses.count("src")
    assert page.text.count("<script>alert(1)</script>") >= 15
    assert "\u202e" not in page.text
    text = store.read(manifests["pack"].path("DATASET.md")).decode().split("---\n", 2)[2]
    assert "\u202e" not in text
    assert not re.search(r"(?<!\\)<", text)
    assert text.count(r"\<script\>") >= 6


def test_content_digest_does_not_cover_the_pages(tmp_path: Path) -> None:
    first = packed_in(tmp_path / "a", [*some_pairs(), *dropped_pairs()])[1]["pack"]
    second = packed_in(tmp_path / "b", some_pairs())[1]["pack"]
    assert first.content_digest == second.content_digest == content_digest(first.parts)
    pages = [{p.name: p.sha256 for p in one.parts if p.name in UNDIGESTED} for one in (first, second)]
    assert pages[0].keys() == pages[1].keys() >= {"dataset.html", "DATASET.md"}
    assert all(pages[0][name] != pages[1][name] for name in pages[0]), "another funnel"
