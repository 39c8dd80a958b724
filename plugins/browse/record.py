"""Read the archived record of a row: the WARC record of its page, from the source file of a run of this machine."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from dataops.archives.http_body import BadBody, decode_body, split_response
from dataops.archives.members import Damage
from dataops.archives.records import read_records
from dataops.archives.warc import RecordFields
from dataops.config import absolute_path
from dataops.errors import ConfigError, PairmillError
from dataops.regular_files import open_regular
from dataops.snapshot import Manifest
from dataops.store import Store
from dataops.trace.sources import offset_unit
from dataops.web.charsets import convert_to_utf8
from flows.records import read_record
from tasks.files.find import LocalFile, find_files

MAX_BYTES = 32 << 20
"""Maximum size of a record, and of its page."""
RECORDS = 1000
"""Maximum number of records of one gzip member that are searched for the page."""
AROUND = 20_000
"""Number of characters of the page that are shown before the caption and after it."""


@dataclass(frozen=True)
class ArchivedPage:
    """A record as text. The page is cut around the caption, which is empty where the page spells it in another way."""

    head: str
    """Fields of the record and of its HTTP response."""
    before: str
    caption: str
    after: str


class SourceFiles:
    """The local source files of a dataset, by the value of the column `source`."""

    def __init__(self, extract: Manifest | None, store: Store, home: Path):
        self._extract, self._store, self._home = extract, store, home
        self._files: dict[str, Path] | None = None

    def find(self, row: Mapping[str, Any]) -> Path | None:
        """Return the file that holds a row's record; None if it is not on this machine, or is no archive."""
        if offset_unit(row.get("extracted_with")) != "byte" or row.get("source_offset") is None:
            return None
        if self._files is None:
            self._files = dict(self._list())
        return self._files.get(str(row.get("source")))

    def _list(self) -> Iterator[tuple[str, Path]]:
        """Yield the files that the configs of this machine's runs of the same extract name."""
        for name in self._store.names("runs") if self._extract is not None else ():
            if not (self._home / name.removesuffix(".json")).exists():
                continue  # a run of another machine, whose paths mean nothing here
            try:
                record = read_record(self._store, name)
            except ConfigError:
                continue
            if self._extract is not None and record.key_of("extract") == self._extract.key:
                source = record.config.get("source", {})
                for table in source if isinstance(source, list) else [source]:
                    yield from self._list_table(table)

    def _list_table(self, table: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
        patterns: Sequence[str] = [absolute_path(one) for one in table.get("paths") or () if "://" not in one]
        prefix = f"{table['name']}/" if table.get("name") else ""
        for file in find_files(patterns)[0]:
            if isinstance(file, LocalFile):
                yield f"{prefix}{file.name}", file.path


def read_page(path: Path, row: Mapping[str, Any]) -> ArchivedPage:
    """Return the record of a row's page, by its offset. Raises: ConfigError if the file has none there any more."""
    try:
        with open_regular(path) as file:
            file.seek(row["source_offset"])
            with closing(read_records(file, MAX_BYTES)) as records:
                for record in islice(records, RECORDS):
                    if isinstance(record, Damage) or record.body is None:
                        break
                    url = RecordFields(record.head).get("warc-target-uri").strip("<>")
                    if url and url.partition("#")[0] in (row["page_url"], f"{row['page_url']}/"):
                        return _show(bytes(record.head), bytes(record.body), str(row.get("caption") or ""))
    except (OSError, PairmillError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    raise ConfigError(f"{path} has no record of {row['page_url']} at byte {row['source_offset']:,} any more")


def _show(head: bytes, content: bytes, caption: str) -> ArchivedPage:
    response, page = content, b""
    try:
        parsed, body = split_response(content)
        page, charset = decode_body(parsed, body, MAX_BYTES), parsed.charset
        response = content[: len(content) - len(body)]
        page = convert_to_utf8(page, charset)[0]
    except BadBody as bad:
        page = f"The page cannot be decoded: {bad.reason}.".encode()
    text = bytes(page).decode("utf-8", "replace")
    at = text.find(caption) if caption else -1
    start, end = (at, at + len(caption)) if at >= 0 else (0, 0)
    fields = "\n".join(part.decode("utf-8", "replace").strip() for part in (head, response))
    return ArchivedPage(fields, text[max(0, start - AROUND) : start], text[start:end], text[end : end + AROUND])
