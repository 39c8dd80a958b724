"""Damages of archives in each format cost only the records that they touch, and are reported."""

import re
from collections import Counter

import pytest

from dataops.archives.warc import Damage, read_pages
from dataops.errors import SourceError
from plugins.common_crawl.wat import read_wat
from tests.unit.dataops.archives.damaged_archives import (
    FORMATS,
    damages,
    warc_records,
    wat_records,
)

DICTIONARY_FRAME = b"\x5d\x2a\x4d\x18"
SKIPPABLE = 14
"""Size of the skippable frames after each record, in bytes."""


def read(tmp_path, data, kind):
    """Return URL and content of each page (of WAT: the texts of its images), the damages, and the counts."""
    path = tmp_path / "archive"
    path.write_bytes(data)
    counts = Counter()
    pages, bad = [], []
    with path.open("rb") as file:
        found = (
            read_pages(path, 1_000_000, lambda what: counts.update([what]))
            if kind == "warc"
            else read_wat(file, 4096, lambda what: counts.update([what]))
        )
        for item in found:
            if isinstance(item, Damage):
                bad.append(item)
            else:
                pages.append((item.url, item.body if kind == "warc" else item.links.text))
    return pages, bad, counts


def touched_records(archive, broken):
    """Return the records that a damage touches: all of them if it is in the dictionary that they need."""
    if broken.start < archive.records[0].start and archive.data.startswith(DICTIONARY_FRAME):
        return archive.records
    end = max(broken.end, broken.start + 1)
    return [r for r in archive.records if r.start < end and broken.start < r.end and broken.end != r.start]


def check(archive, broken, found, bad):
    """Check what was read of a damaged archive against what was written."""
    touched = touched_records(archive, broken)
    expected = [(r.url, r.content) for r in archive.records if r not in touched]
    assert [page for page in found if page in expected] == expected, "an undamaged record is missing, or twice"
    if archive.checksums == "each":
        assert set(found) <= {(r.url, r.content) for r in archive.records}, "a record was made up"
    lost = [r for r in touched if (r.url, r.content) not in found]
    # If only the checksum of a record is cut off, nothing shows that there were others after it.
    is_clean_cut = broken.name.startswith("cut") and (touched[0] not in lost or touched[0].start == broken.start)
    if lost and not is_clean_cut and (archive.checksums != "none" or broken.name.startswith("cut")):
        assert bad, "a record was lost without a report"
    if touched and not lost and broken.start != broken.end and touched[0].end - broken.start > SKIPPABLE:
        assert not bad, "a report without a loss"
    if bad and lost:
        assert bad[0].offset <= max(broken.start, lost[0].start)
        assert all(damage.offset >= touched[0].start for damage in bad)


@pytest.mark.parametrize("kind", ["warc", "wat"])
@pytest.mark.parametrize("name", FORMATS)
def test_damages_cost_only_their_own_records(tmp_path, name, kind):
    archive = FORMATS[name](warc_records() if kind == "warc" else wat_records())
    pages, bad, counts = read(tmp_path, archive.data, kind)
    assert (pages, bad, counts["records"]) == ([(r.url, r.content) for r in archive.records], [], 8)
    for broken in damages(archive.data, seed=1, flips=25, others=8):
        error = None
        try:
            found, bad, _ = read(tmp_path, broken.data, kind)
            check(archive, broken, found, bad)
        except SourceError as raised:
            error = str(raised)
        except Exception as raised:
            raised.add_note(broken.name)
            raise
        if error:  # nothing can be read of it
            assert touched_records(archive, broken) == archive.records, broken.name
            assert re.search("no WARC record|no WAT record|dictionary", error), broken.name
