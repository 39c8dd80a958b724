"""The pages of a dataset follow the manifests, show text from the web as text, and are covered by no digest."""

import re

from huggingface_hub import DatasetCard

from dataops.snapshot import UNDIGESTED, content_digest
from tests.hostile_text import HOSTILE, Page
from tests.unit.tasks.dataset_chain import dropped_pairs, packed_in, pair, some_pairs


def test_pages_show_hostile_pairs_as_text(tmp_path):
    bad = {"caption": HOSTILE, "license": f"http://{HOSTILE}\n---\n", "source": f"/x/{HOSTILE}", "language": HOSTILE}
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
    markdown = store.read(manifests["pack"].path("DATASET.md")).decode()
    _, front, text = markdown.split("---\n", 2)
    assert front.isascii()
    assert "<" not in front.replace("n<1K", "")
    assert DatasetCard(markdown).data.get("language") is None
    assert "\u202e" not in text
    assert not re.search(r"(?<!\\)<", text)
    assert text.count(r"\<script\>") >= 6


def test_content_digest_does_not_cover_the_pages(tmp_path):
    first = packed_in(tmp_path / "a", [*some_pairs(), *dropped_pairs()])[1]["pack"]
    second = packed_in(tmp_path / "b", some_pairs())[1]["pack"]
    assert first.content_digest == second.content_digest == content_digest(first.parts)
    pages = [{p.name: p.sha256 for p in one.parts if p.name in UNDIGESTED} for one in (first, second)]
    assert pages[0].keys() == pages[1].keys() >= {"dataset.html", "DATASET.md"}
    assert all(pages[0][name] != pages[1][name] for name in pages[0]), "another funnel"


def test_page_shows_dropped_pairs_or_that_there_are_none(tmp_path):
    for name, pairs in (("clean", [pair(n) for n in range(5)]), ("dropped", some_pairs())):
        store, manifests = packed_in(tmp_path / name, pairs)
        page = store.read(manifests["pack"].path("dataset.html")).decode()
        assert ("No stage dropped a row." in page) == (name == "clean")
