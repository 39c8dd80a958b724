"""Indexes the captures of the sources' archives, and takes images from them without a request.

Each archive is read once, by a task of its own. It writes the heads and decoded bodies of its captures into one object
of the draft's scratch, and a table of where they are. The tables are merged into one SQLite file, which workers open
where it is: memory does not grow with the number of captures.
"""

import logging
import re
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from email.message import Message
from io import BytesIO
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote

import pyarrow as pa
import xxhash

from dataops.archives.members import Damage
from dataops.errors import SourceError, StorageError
from dataops.parquet import open_parquet, open_writer
from dataops.snapshot import Draft, Record
from dataops.store import Store
from dataops.trace.sources import find_source
from dataops.web.urls import BadUrl, canonicalise_url
from plugins.archives.captures import Capture, parse_headers, read_captures
from tasks.download.hooks import ShardHook
from tasks.download.opener import Fetch, Fetched
from tasks.engine.context import Context
from tasks.engine.map_parts import map_parts
from tasks.engine.scratch_folders import scratch_folder
from tasks.web.fetch_error import FetchError
from tasks.web.request import MAX_REDIRECTS

logger = logging.getLogger(__name__)

_MAX_URL_CHARS = 65_536
_ESCAPE = re.compile("%([0-9a-fA-F]{2})")
_UNRESERVED = re.compile("[a-zA-Z0-9._~-]").fullmatch
_INDEX = "archive-index-2.sqlite"  # 2: keys of URLs whose escapes are written in one way
_BATCH = 1 << 14
_RANKS = {"body": 3, "revisit": 2, "redirect": 1, "error": 0}
"""A body is preferred to any other answer to the same URL."""
_TABLE = pa.schema(
    [
        ("key", pa.binary(16)),
        ("rank", pa.int8()),
        ("date", pa.string()),
        ("file", pa.int32()),
        ("number", pa.int64()),
        ("record_offset", pa.int64()),
        ("position", pa.int64()),
        ("head_bytes", pa.int64()),
        ("body_bytes", pa.int64()),
        ("status", pa.int32()),
        ("error", pa.string()),
        ("target", pa.binary(16)),
        ("digest", pa.string()),
    ]
)
_BEST = "ORDER BY rank DESC, rtrim(date, 'Z0.') DESC, file, number LIMIT 1"
"""The newest body; of equal dates the first one in the order of the files and their records. A date may have a fraction of
a second: without trailing zeros, texts have the order of instants."""


@dataclass(frozen=True)
class IndexTask:
    """One archive to index."""

    index: int
    file: Any
    """One WARC file (tasks.files.base.SourceFile), read once from its start. It is picklable."""
    max_bytes: int
    may_fail: bool
    label: str
    """Name of the file after that of its source, for messages and evidence."""
    hooks: tuple[ShardHook, ...] = ()
    """What checks bodies; the bytes of an image that they drop are not written."""

    @property
    def id(self) -> str:
        return f"archive-2-{self.index:05d}"


class Hop(NamedTuple):
    """One archived answer on the way from a URL to its image, or a revisit, which refers to one."""

    rank: int
    file: int
    record_offset: int
    date: str
    position: int
    head_bytes: int
    body_bytes: int
    status: int | None
    error: str
    target: bytes | None
    digest: str | None


def list_tasks(
    sources: Sequence[Any], max_bytes: int, context: Context, hooks: Sequence[ShardHook] = ()
) -> list[IndexTask]:
    """Return a task for each file of each source, in their order."""
    files = [(source, file) for source in sources for file in source.files(context)]
    return [
        IndexTask(number, file, max_bytes, source.max_failed_files > 0, source.label(file.name), tuple(hooks))
        for number, (source, file) in enumerate(files)
    ]


def index_archives(tasks: Sequence[IndexTask], draft: Draft, context: Context) -> dict[str, Any]:
    """Index all archives in the draft's scratch, and return facts for the manifest."""
    records = map_parts(index_archive, tasks, draft, context.without_progress())
    if draft.store.size(draft.scratch(_INDEX)) is None:
        _merge_tables(draft, len(tasks))
    damages = sum((Counter(record.facts["damages"]) for record in records), Counter[str]())
    captures = sum((Counter(record.facts["captures"]) for record in records), Counter[str]())
    return {
        "files": len(tasks),
        "captures": dict(sorted(captures.items())),
        "damages": dict(sorted(damages.items())),
        "failed_files": [record.facts["failed"] for record in records if "failed" in record.facts],
    }


def index_archive(draft: Draft, task: IndexTask) -> Record:
    """Write the captures of one archive, and the table of their positions, into the scratch.

    Raises: SourceError if the archive cannot be read, unless the source allows unreadable files.
    """
    captures, damages = Counter[str](), Counter[str]()
    facts: dict[str, Any] = {}
    with ExitStack() as stack, scratch_folder("archive") as folder:
        bodies, table = folder / "bodies", folder / "table.parquet"
        hooks = [stack.enter_context(hook.open(draft)) for hook in task.hooks]
        with bodies.open("wb") as file, open_writer(table, _TABLE) as writer:
            try:
                for batch in _batches(_index_captures(task, hooks, file, captures, damages)):
                    writer.write_table(pa.Table.from_pylist(batch, _TABLE))
            except SourceError as error:
                if not task.may_fail:
                    raise
                logger.warning("download: images of %s were left out: %s", task.label, error)
                facts["failed"] = task.label
        draft.check_fence()
        draft.store.put(_bodies_name(draft, task.index), bodies)
        draft.store.put(_table_name(draft, task.index), table)
    return Record(task=task.id, facts={"captures": dict(captures), "damages": dict(damages), **facts})


def _bodies_name(draft: Draft, file: int) -> str:
    return draft.scratch(f"archive-{file:05d}.bodies")


def _table_name(draft: Draft, file: int) -> str:
    return draft.scratch(f"archive-{file:05d}.parquet")


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    yield batch


def _index_captures(
    task: IndexTask, hooks: Sequence[ShardHook], bodies: BinaryIO, captures: Counter[str], damages: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Append the bytes of each capture to `bodies`, and yield its row of the table."""
    with task.file.open() as stream:
        for capture in read_captures(stream, task.max_bytes):
            if isinstance(capture, Damage):
                damages[capture.reason] += 1
                continue
            key = compute_key(capture.url)
            if key is None:
                damages["bad_url"] += 1
                continue
            captures[capture.kind] += 1
            if capture.body:
                capture = _checked(hooks, capture)
            position = bodies.tell()
            bodies.write(capture.head)
            bodies.write(capture.body)
            yield _make_row(capture, key, task.index, position)


def _checked(hooks: Sequence[ShardHook], capture: Capture) -> Capture:
    """Return a capture, without its bytes if a hook drops them or cannot check them."""
    try:
        for hook in hooks:
            hook.check(capture.body)
    except FetchError as error:
        for hook in hooks:
            hook.end()
        return replace(capture, status=None, head=b"", body=b"", error=str(error), digest=None)
    return capture


def _make_row(capture: Capture, key: bytes, file: int, position: int) -> dict[str, Any]:
    return {
        "key": key,
        "rank": _RANKS[capture.kind],
        "date": capture.date,
        "file": file,
        "number": capture.number,
        "record_offset": capture.offset,
        "position": position,
        "head_bytes": len(capture.head),
        "body_bytes": len(capture.body),
        "status": capture.status,
        "error": capture.error,
        "target": compute_key(capture.target) if capture.target else None,
        "digest": capture.digest,
    }


def compute_key(url: str) -> bytes | None:
    """Return the hash by which captures of a URL are found; None if the URL is unusable.

    Escapes that do not matter are written in one way: wget stores ~ for %7E, and browsers store %27 for '.
    Source: RFC 3986, section 6.2.2.
    """
    try:
        url = _ESCAPE.sub(_write_escape, canonicalise_url(url, url, _MAX_URL_CHARS)).replace("'", "%27")
    except BadUrl:
        return None
    return xxhash.xxh3_128_digest(url.encode("utf-8", "surrogatepass"))


def _write_escape(found: re.Match[str]) -> str:
    character = chr(int(found[1], 16))
    return character if _UNRESERVED(character) else found[0].upper()


@contextmanager
def full_disk_errors() -> Iterator[None]:
    """Translate the errors of SQLite into a StorageError with the remedy: they have no number of a failed write."""
    try:
        yield
    except sqlite3.OperationalError as error:
        remedy = f"free some space in {tempfile.gettempdir()}, or set TMPDIR, then rerun"
        raise StorageError(f"cannot write the index of the archives: {error}; {remedy}", retryable=False) from error


def _merge_tables(draft: Draft, files: int) -> None:
    """Write the SQLite file of all tables."""
    places = ", ".join("?" * len(_TABLE.names))
    with full_disk_errors(), scratch_folder("archive-index") as folder:
        path = folder / _INDEX
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA journal_mode = OFF")
            database.execute("PRAGMA synchronous = OFF")
            database.execute(f"CREATE TABLE captures ({', '.join(_TABLE.names)})")
            for file in range(files):
                name = _table_name(draft, file)
                with draft.store.open(name) as table, open_parquet(table, f"{draft.store.uri}/{name}") as parquet:
                    for batch in parquet.iter_batches(_BATCH):
                        rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
                        database.executemany(f"INSERT INTO captures VALUES ({places})", rows)
            database.execute("CREATE INDEX by_key ON captures (key)")
            database.execute("CREATE INDEX by_digest ON captures (digest) WHERE rank = 3")
            database.commit()
        draft.check_fence()
        draft.store.put(draft.scratch(_INDEX), path)


class ArchiveIndex:
    """The captures of all archives, by URL.

    Args:
        names: names of the archives, in the order of their indices.
    """

    def __init__(self, draft: Draft, names: Sequence[str]):
        self._draft, self.names = draft, names

    @property
    def _store(self) -> Store:
        return self._draft.store

    def find_hops(self, urls: Iterable[str]) -> dict[str, list[Hop]]:
        """Return the answers that lead from each URL to its image: redirects, and then a body or an error.

        A URL whose last answer is a redirect, or that has none, leads to nothing in the archives.
        """
        path = self._store.local(self._draft.scratch(_INDEX))
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)) as database:
            return {url: _follow(database, compute_key(url)) for url in urls}

    def read(self, hop: Hop) -> tuple[bytes, bytes]:
        """Return the head and the decoded body of an answer. Safe to call from many threads."""
        size = hop.head_bytes + hop.body_bytes
        if not size:
            return b"", b""
        (data,) = self._store.read_ranges(_bodies_name(self._draft, hop.file), [(hop.position, size)])
        return data[: hop.head_bytes], data[hop.head_bytes :]


def _follow(database: sqlite3.Connection, key: bytes | None) -> list[Hop]:
    hops: list[Hop] = []
    while key is not None and len(hops) <= MAX_REDIRECTS:
        hop = _find(database, "key = ?", key)
        if hop is not None and hop.rank == _RANKS["revisit"]:
            hop = _find_original(database, hop)
        if hop is None:
            break
        hops.append(hop)
        key = hop.target if hop.rank == _RANKS["redirect"] else None
    return hops


def _find_original(database: sqlite3.Connection, revisit: Hop) -> Hop | None:
    """Return the response that a revisit record refers to, by its URL or else by the digest of its body."""
    found = _find(database, "rank = 3 AND key = ?", revisit.target) if revisit.target else None
    if found is None and revisit.digest:
        found = _find(database, "rank = 3 AND digest = ?", revisit.digest)
    return found


def _find(database: sqlite3.Connection, condition: str, value: Any) -> Hop | None:
    columns = ", ".join(Hop._fields)
    row = database.execute(f"SELECT {columns} FROM captures WHERE {condition} {_BEST}", (value,)).fetchone()
    return None if row is None else Hop(*row)


NOT_IN_ARCHIVE = "not_in_archive"
"""Drop reason of an image that no archive of the source has."""


@dataclass
class ArchiveHook(ShardHook):
    """Answers the requests of a shard from the archives. Headers and bodies pass the same checks as those of a server."""

    files: tuple[str, ...]
    """Names of the archives, in the order of their indices."""
    sources: tuple[str, ...] | None
    """Names of the sources whose images are in archives; None: all are, and nothing is requested."""
    facts: Mapping[str, Any]
    """Counts of the index."""

    def list_facts(self) -> Mapping[str, Any]:
        return {"archive": self.facts}

    @contextmanager
    def open(self, draft: Draft) -> Iterator[ShardHook]:
        self._index = ArchiveIndex(draft, self.files)
        yield self

    def begin(self, rows: pa.Table) -> None:
        """Find the answers; a URL of several rows is taken from the archives if one of them is of such a source."""
        urls = rows["url"].to_pylist()
        if self.sources is not None:
            names = rows["source"].to_pylist()
            urls = [url for url, name in zip(urls, names, strict=True) if find_source(name, self.sources) is not None]
        self._hops = self._index.find_hops(urls)

    def fetch(self, fetch: Fetch, url: str) -> Fetched | None:
        if self.sources is not None and url not in self._hops:
            return None
        hops, evidence = self._hops.get(url, []), fetch.evidence
        for hop in hops:
            evidence.final_url, evidence.fetched_at = url, hop.date
            evidence.archive, evidence.archive_offset = self._index.names[hop.file], hop.record_offset
            head, body = self._index.read(hop)
            if not hop.status:
                raise _fetch_error(hop.error)
            result = fetch.read_response(url, ArchivedResponse(hop.status, parse_headers(head), body, hop.error))
            if isinstance(result, Fetched):
                return result
            url = result
        if len(hops) > MAX_REDIRECTS:
            raise FetchError("redirect_loop", f"more than {MAX_REDIRECTS} redirects")
        raise FetchError(NOT_IN_ARCHIVE, "no archive of the source has a usable record of it")


def _fetch_error(text: str) -> FetchError:
    reason, _, detail = text.partition(": ")
    return FetchError(reason, detail)


class ArchivedResponse:
    """An archived answer, with the attributes of a server's response. Its body is decoded."""

    length: int | None

    def __init__(self, status: int, headers: Message, body: bytes, error: str):
        del headers["Content-Encoding"]
        self.status, self.headers, self.length = status, headers, len(body)
        self._body, self._error = BytesIO(body), error

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes of the body. Raises: FetchError if it cannot be used."""
        if self._error:
            raise _fetch_error(self._error)
        return self._body.read(size)
