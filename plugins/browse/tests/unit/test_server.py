"""The pages and data of a small dataset, as a browser gets them."""

import re
from urllib.parse import quote

import pytest
from selectolax.lexbor import LexborHTMLParser

from dataops.errors import ConfigError
from dataops.snapshot import read_parts
from dataops.trace.targets import parse_target
from plugins.browse.record import read_page
from plugins.browse.rows import Selection, list_rows
from plugins.browse.tests.stored_dataset import ARCHIVED, HOSTILE, write_archive
from plugins.browse.views import ROW
from tests.concurrency import wait_for
from tests.unit.tasks.dataset_chain import jpeg

PAGES = ("/", "/?rows=filter.dropped", "/?values=drop_reason&rows=curate.dropped", "/row?row=0", "/clusters", "/meaning",
         "/funnel", "/?q=nothing-has-this", "/?rows=zz", "/row?row=77777777")  # fmt: skip


def page(ask, path, status=200):
    answer = ask(path)
    assert answer.status_code == status, answer.text
    return LexborHTMLParser(answer.text)


def cards(found):
    return len(found.css("#cards .card"))


@pytest.mark.parametrize("path", PAGES)
def test_pages_run_and_fetch_nothing_of_others(ask, path):
    answer = ask(path)
    found = LexborHTMLParser(answer.text)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "'unsafe" not in answer.headers["content-security-policy"]
    for node in found.css("*"):
        names = node.attributes
        assert not [name for name in names if name.startswith("on") or name == "style"], node.html
        for name in ("src", "href", "action"):
            value = names.get(name) or ""
            is_own = value.startswith(("/", "#")) and not value.startswith("//")
            assert is_own or not value or (node.tag == "a" and "noopener" in (names.get("rel") or "")), node.html
    assert next(node.attributes.get("src") for node in found.css("script")) == "/assets/app.js"
    assert all(not node.text().strip() for node in found.css("script, style"))


def test_hostile_captions_and_urls_are_text(ask, site):
    number = next(
        row[ROW]
        for row in list_rows(site.database, Selection(site.dataset.view("pack.kept")))
        if row["caption"] == HOSTILE
    )
    listed = page(ask, "/?q=alert")
    assert cards(listed) == 1
    assert HOSTILE in listed.css_first("#cards .caption").text()
    one = page(ask, f"/row?row={number}")
    assert HOSTILE in one.css_first(".big").text()
    assert "javascript:alert(1)" in one.css_first("table").text()
    assert not [a for a in one.css("a") if "javascript:" in (a.attributes["href"] or "")]
    for found in (listed, one):
        assert len(found.css("script")) == 1


def test_assets_are_a_closed_set(ask):
    assert ask("/assets/app.js").headers["content-type"].startswith("text/javascript")
    assert "prefers-color-scheme: dark" in ask("/assets/style.css").text
    for name in ("../server.py", "..%2fserver.py", "app.py", "style.css%00"):
        assert ask(f"/assets/{name}").status_code == 404


def test_a_takedown_file_is_prepared_and_nothing_is_removed(ask, site):
    rows = read_parts(site.store, site.dataset.manifest)
    uids = rows["uid"].to_pylist()[:2]
    before = site.store.names("")
    answer = ask(
        "/takedown", "POST", data={"targets": f"uid:{uids[0]}\nuid:{uids[1]} domain:host1.example\nuid:{uids[0]}"}
    )
    assert answer.headers["content-disposition"].startswith('attachment; filename="takedown-')
    named = [str(parse_target(line)) for line in answer.text.splitlines() if not line.startswith("#")]
    assert named == [*(f"uid:{uid}" for uid in uids), "domain:host1.example"]
    assert site.store.names("") == before
    for targets in ("", "uid:xyz", "x\nuid:1", "file:/etc/passwd"):
        assert ask("/takedown", "POST", data={"targets": targets}).status_code == 400
    assert ask("/takedown").status_code == 405


def test_row_leads_to_its_archived_record(ask, site):
    card = page(ask, f"/?f=page_url~is~{quote(ARCHIVED)}").css_first("#cards .card")
    one = page(ask, str(card.css_first("a").attributes["href"]))
    link = next(node for node in one.css("a") if node.text() == "Archived record")
    assert re.search(r"pages\.warc\.gz at byte [1-9]\d*", one.css_first("main").text())
    record = page(ask, str(link.attributes["href"]))
    assert f"WARC-Target-URI: {ARCHIVED}" in record.css_first("pre").text()
    assert "Content-Type: text/html; charset=utf-8" in record.css_first("pre").text()
    assert HOSTILE in record.css_first("pre.page-source").text()
    assert record.css_first("mark").text() == card.css_first(".caption").text()
    other = page(ask, "/?q=alert").css_first("#cards .card a").attributes["href"]
    assert "Archived record" not in ask(str(other)).text
    assert "no archive" in page(ask, str(other).replace("/row", "/record"), 400).css_first("main").text()


def test_archive_that_was_replaced_is_not_shown_as_the_record(ask, site, tmp_path):
    file = tmp_path / "other.warc.gz"
    row = {"page_url": ARCHIVED, "source_offset": write_archive(file, "a caption"), "caption": "a caption"}
    assert read_page(file, row).caption == "a caption"
    for wrong in ({"source_offset": 0, "page_url": "http://elsewhere.example/"}, {"source_offset": 5}):
        with pytest.raises(ConfigError, match="other"):
            read_page(file, row | wrong)


def test_search_by_meaning(ask, site):
    meaning = site.need_meaning()
    assert "compute them" in page(ask, "/?m=red").css_first("main").text()
    assert ask("/features", "POST", data={"action": "start"}).status_code == 303
    state = wait_for(lambda: (found := ask("/features.json").json())["done"] and not found["running"] and found)
    assert state["error"] == ""
    assert meaning.coverage() == (site.dataset.manifest.counts.kept,) * 2
    for path in ("/?m=red", "/?like=3"):
        scores = [float(one) for one in re.findall(r"similarity (-?[\d.]+)", ask(path).text)]
        assert len(scores) == site.dataset.manifest.counts.kept
        assert scores == sorted(scores, reverse=True)
    assert scores[0] == 1.0  # the row itself
    filtered = page(ask, "/?m=red&f=original_width~min~110")
    assert 0 < cards(filtered) == cards(page(ask, "/?f=original_width~min~110"))
    like = ask("/upload", "POST", content=jpeg(4)).json()["like"]
    first = page(ask, f"/?like={like}").css_first("#cards .card")
    assert "similarity 1.000" in first.text() or "similarity 0.999" in first.text()
    assert page(ask, "/?like=upload-99").css_first("p.message").text()
    assert "All images have a feature" in page(ask, "/meaning").css_first("main").text()
    again = meaning._encoder.batches
    meaning.start()
    wait_for(lambda: not meaning.progress.running)
    assert meaning._encoder.batches == again
