"""Erase removed pairs from the WARC files in which a crawl keeps its pages and the robots.txt of hosts.

A record that holds a URL, an image or a long caption of a removed pair, or from which such a pair was read, is replaced by
one of the same type, id, time and URL without any content: a response with an empty body, which `WARC-Truncated` and the
field ERASED mark. It has no digest. A removed URL is replaced too. A page stays one, so the numbers of pages in the column
`source_offset` stay true. All other records are copied byte by byte.

A file is replaced as a table is (plugins/erasure/erase_rows.py): by one with the name of its next revision. The pages of a
removed pair are found by its uid, also by a call after a killed one that has erased the rows.
"""

import gzip
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pyarrow as pa

from dataops.archives.http_body import BadBody, split_response
from dataops.archives.members import Damage
from dataops.archives.records import read_records
from dataops.archives.warc import RecordFields, read_pages
from dataops.errors import CorruptPart, PairmillError
from dataops.snapshot import EVIDENCE, Draft, Manifest, Part, load_manifest, local_part
from plugins.erasure.batches import Place, Sought, map_objects
from plugins.erasure.erase_texts import scan_objects
from plugins.erasure.record_search import ARCHIVE, MAX_RECORD_BYTES, RecordSearch
from plugins.erasure.traces import is_in
from tasks.engine.context import Context
from tasks.engine.lease import hold_lease
from tasks.engine.scratch_folders import scratch_folder
from tasks.lineage.graph import DROPPED, KEPT, Lineage
from tasks.search import read_columns
from tasks.takedown.holders import Traces

ERASED = "Pairmill-Erased"
"""Field of a record whose content a takedown has erased."""
NO_URL = "http://erased.invalid/"
"""Stands for a removed URL of a page: RFC 2606 reserves it, so nobody can own it."""
_KEPT = ("WARC-Type", "WARC-Record-ID", "WARC-Date", "WARC-IP-Address", "WARC-Concurrent-To", "Content-Type")
_NAME = re.compile(rf"(.*?)(?:-r(\d+))?{re.escape(ARCHIVE)}")
_WITH_BLOCK = ("request", "response")
"""Types of records to search; the others describe the file."""


def erase_records(
    lineage: Lineage, context: Context, traces: Traces, place: Place | None = None
) -> tuple[int, dict[str, str]]:
    """Replace the records that hold removed pairs in all complete snapshots, after their rows were erased.

    Returns: the number of files that changed; and why those of a snapshot stay, by snapshot.
    """
    crawls = [name for name, one in lineage.manifests.items() if one.named(EVIDENCE, ARCHIVE)]
    manifests = [one for name in crawls if (one := load_manifest(context.store, *name))]  # rows may have changed them
    sizes = [(one.path(part.name), part.bytes) for one in manifests for part in one.named(EVIDENCE, ARCHIVE)]
    sought, changed, refused = Sought(traces), 0, dict[str, str]()
    batches = map_objects(scan_objects, sizes, sought, context, place)
    found = {name for batch in batches for name, _, finds in batch if finds}
    for manifest in manifests:
        try:
            pages = _find_pages(context, manifest, traces.uids)
            chosen = {part: pages[_split_name(part.name)[0]] for part in manifest.named(EVIDENCE, ARCHIVE)}
            chosen = {part: some for part, some in chosen.items() if some or manifest.path(part.name) in found}
            changed += _erase_in(context, manifest, chosen, sought.scanner.records) if chosen else 0
        except PairmillError as error:  # a run makes it now, or the file is damaged
            refused[f"{manifest.stage}/{manifest.key}"] = str(error)
    return changed, refused


def _find_pages(context: Context, manifest: Manifest, uids: set[str]) -> defaultdict[str, set[int]]:
    """Return the numbers of the pages from which removed pairs were read, by the stem of the archive's name."""
    pages = defaultdict[str, set[int]](set)
    for part in (*manifest.named(KEPT, ".parquet"), *manifest.named(DROPPED, ".parquet")):
        table = read_columns(context.store, manifest.path(part.name), ("uid", "source", "source_offset"))
        rows = table.filter(pa.array(is_in(table["uid"], uids)))
        for source, number in zip(rows["source"].to_pylist(), rows["source_offset"].to_pylist(), strict=True):
            if source.endswith(ARCHIVE):
                pages[_split_name(source.rpartition("/")[2])[0]].add(number)
    return pages


def _split_name(name: str) -> tuple[str, int]:
    """Return the stem of an archive's name, without its revision, and the revision: 0 for the first one."""
    found = _NAME.fullmatch(name)
    assert found is not None
    return found[1], int(found[2] or 0)


def _erase_in(context: Context, manifest: Manifest, chosen: dict[Part, set[int]], search: RecordSearch) -> int:
    """Replace records of some archives; return the number of archives that change.

    Args:
        chosen: numbers of the pages to erase whatever they hold, by archive.
    """
    draft, replaced, records = Draft(context.store, manifest.stage, manifest.key), dict[str, Part](), 0
    with hold_lease(draft, context, wait=False, remake=True) as held, scratch_folder("takedown") as folder:
        assert held is not None
        for part, pages in chosen.items():
            path = local_part(context.store, manifest.path(part.name), part.sha256)
            number = _write_erased(path, folder / "archive", pages, search)
            if number:
                stem, revision = _split_name(part.name)
                name = f"{stem}-r{revision + 1}{ARCHIVE}"
                replaced[part.name] = held.draft.put_file(name, folder / "archive", part.rows)
                records += number
        if replaced:
            facts = {**manifest.facts, "erased_records": int(manifest.facts.get("erased_records", 0)) + records}
            parts = [replaced.get(part.name, part) for part in manifest.parts]
            held.draft.replace(manifest.model_copy(update={"parts": parts, "facts": facts}))
            draft.store.delete([draft.path(name) for name in replaced])
    return len(replaced)


def _write_erased(source: Path, target: Path, pages: set[int], search: RecordSearch) -> int:
    """Write an archive without what is removed; return the number of records that are replaced."""
    spans = [*_replace_records(source, pages, search), (source.stat().st_size, None)]
    with source.open("rb") as file, target.open("wb") as out:
        for (start, new), (end, _) in pairwise(spans):
            file.seek(start)
            out.write(file.read(end - start) if new is None else new)
    return sum(new is not None for _, new in spans)


def _replace_records(path: Path, pages: set[int], search: RecordSearch) -> Iterator[tuple[int, bytes | None]]:
    """Yield the position of each record, and what replaces it, or None.

    Raises: CorruptPart if a record cannot be read.
    """
    is_removed = {
        page.offset: number in pages for number, page in enumerate(read_pages(path, MAX_RECORD_BYTES, lambda _: None))
    }
    with path.open("rb") as file:
        for record in read_records(file, MAX_RECORD_BYTES):
            if isinstance(record, Damage):
                raise CorruptPart(f"{path} has a damaged record at byte {record.offset}; delete its snapshot")
            fields, block = RecordFields(record.head), bytes(record.body or b"")
            is_unread = record.body is None or is_removed.get(record.offset, False)
            if fields.get("warc-type") not in _WITH_BLOCK or fields.get(ERASED.lower()):
                yield record.offset, None
            elif is_unread or search.find(record.head, block):
                yield record.offset, _build_empty(fields, block, search, is_page=record.offset in is_removed)
            else:
                yield record.offset, None


def _build_empty(fields: RecordFields, block: bytes, search: RecordSearch, *, is_page: bool) -> bytes:
    """Return a gzip member with the record without its content."""
    url = fields.get("warc-target-uri")
    url = NO_URL if search.urls.is_in(url) else url
    content = f"GET / HTTP/1.1\r\nHost: {NO_URL.split('/')[2]}\r\n\r\n"
    if fields.get("warc-type") == "response":
        try:
            status = split_response(block)[0].status
        except BadBody:
            status = 200
        media_type = "text/html" if is_page else "text/plain"
        content = f"HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: 0\r\n\r\n"
    head = {name: value for name in _KEPT if (value := fields.get(name.lower()))}
    head |= {"WARC-Target-URI": url, "WARC-Truncated": "unspecified", ERASED: "takedown"}
    lines = [f"{name}: {value}" for name, value in (head | {"Content-Length": str(len(content))}).items()]
    return gzip.compress("\r\n".join(["WARC/1.1", *lines, "", f"{content}\r\n\r\n"]).encode(), mtime=0)
