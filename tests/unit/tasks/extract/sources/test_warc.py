"""`kind = "warc"` and `kind = "wat"` through the extract stage, on archives that are damaged, empty or none."""

import pytest

from dataops.errors import SourceError
from dataops.plugins import load
from dataops.snapshot import read_parts
from dataops.store import FolderStore
from tasks.engine.stage import make, plan
from tasks.extract.sources.warc import WarcSource
from tasks.extract.stage import EXTRACT
from tests.inline_executor import inline_context
from tests.unit.dataops.archives.damaged_archives import FORMATS, warc_records, wat_records

KINDS = {"warc": WarcSource}
if "wat" in load("sources"):  # of a plugin
    KINDS["wat"] = load("sources")["wat"]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    """A task that failed is retried at once."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def extract(tmp_path, kind, archives):
    """Run the stage. Return its manifest, and (source, caption) of each kept row."""
    folder = tmp_path / "archives"
    folder.mkdir()
    for name, data in archives.items():
        (folder / name).write_bytes(data)
    store = FolderStore(tmp_path / "store")
    config = KINDS[kind](paths=[str(folder / "*")])
    manifest = make(plan(EXTRACT, config, 0, []), inline_context(store, tmp_path))
    rows = read_parts(store, manifest).to_pylist()
    return manifest, [(row["source"], row["caption"][:8]) for row in rows]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in FORMATS if "one" not in name])
def test_extract_loses_only_the_damaged_records_of_one_of_three_archives(tmp_path, kind, name):
    archive = FORMATS[name](warc_records() if kind == "warc" else wat_records())
    third, last = archive.records[2], archive.records[-1]
    middle = (third.start + third.end) // 2
    damaged = archive.data[:middle] + archive.data[middle + 7 : last.end - 40]
    manifest, rows = extract(
        tmp_path, kind, {"a.warc": archive.data, "b.warc": damaged, "c.warc": archive.data[: last.start]}
    )
    expected = [(file, number) for file in "abc" for number in range(8)]
    expected = [pair for pair in expected if pair not in [("b", 2), ("b", 7), ("c", 7)]]
    assert rows == [(f"{file}.warc", f"number {number}") for file, number in expected]
    reason = "bad_length" if name == "plain" else "bad_record"
    assert manifest.facts["damages"] == {reason: 1, "truncated": 1}
    assert manifest.facts["damaged"] == [["b.warc", third.start, reason], ["b.warc", last.start - 7, "truncated"]]
    assert manifest.facts["read"]["pages"] == manifest.counts.kept == 21
    assert manifest.facts["failed_files"] == []


@pytest.mark.parametrize("kind", KINDS)
def test_extract_names_the_file_that_is_no_archive_and_the_remedy(tmp_path, kind):
    archive = FORMATS["gz"](warc_records() if kind == "warc" else wat_records())
    with pytest.raises(SourceError, match=r"site\.wacz: no WARC record: this is a ZIP file.*`unzip FILE") as caught:
        extract(tmp_path, kind, {"a.warc.gz": archive.data, "site.wacz": b"PK\x03\x04" + archive.data})
    assert str(caught.value).endswith("; leave it out of source.paths, or raise source.max_failed_files")
    assert (caught.value.exit_code, caught.value.retryable) == (2, False)
    attempts = list(tmp_path.rglob("failing/*"))
    assert [path.stat().st_size for path in attempts] == [1], "the damaged file was read once"
