"""Store snapshots: the mechanism for skipping, resuming, rerunning and lineage.

A stage's output is an immutable snapshot in the store::

    <stage>/<key>/part-00000.parquet ...   parts, each written atomically
    <stage>/<key>/manifest.json            written last: its presence means complete

While a snapshot is made, each finished task of its stage leaves a record under
`<stage>/<key>/_work/`. The run moves the records of several tasks into a log there, so that a
crashed stage resumes at its first missing part by few requests. The records, logs and scratch files
are deleted once the manifest is in place. The lease (tasks/engine/lease.py) of the one run that
makes the snapshot is there too; each write checks it.
"""

import hashlib
import io
import json
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer

from dataops.digest import canonical_json, file_sha256, text_sha256
from dataops.errors import CorruptPart, LeaseLost
from dataops.formats import Stored
from dataops.parquet import ROW_GROUP, encode_table, read_parquet
from dataops.parts import FROZEN, MANY_PARTS, Part, PartTable, encode_parts
from dataops.schema import uid_sum
from dataops.stages import STAGES
from dataops.store import Store

MANIFEST = "manifest.json"
EVIDENCE, INDEX = "evidence-", "index-"
UNDIGESTED = frozenset({"DATASET.md", "croissant.json", "dataset.html", "evaluation.html"})
"""Parts that describe a dataset or an evaluation to people; the content digest excludes them."""


LISTED = 2
"""Maximum number of parts whose sizes are requested one by one, and not by a listing of the snapshot."""
READS_AT_ONCE = 8
LOG = "records-"
LOGGED_AT_ONCE = 8
"""Records that a log is written for."""
LOG_RECORDS = 512
"""Records of a full log."""
DATA = (".parquet", ".pq", ".tar", ".idx")
"""Suffixes of parts with rows or images."""

_MANIFEST_DIGEST = re.compile(rb'\{\n  "sha256": "([0-9a-f]{64})",')


class _Frozen(BaseModel):
    model_config = FROZEN


class Input(_Frozen):
    """An input of a snapshot: another snapshot, or data outside the store (stage `source` or `suite`)."""

    stage: str
    key: str
    digest: str


class Counts(_Frozen):
    """Rows in, rows kept, and rows dropped by reason. `kept + sum(dropped) == input` for stages over pairs."""

    input: int = 0
    kept: int = 0
    dropped: dict[str, int] = Field(default_factory=dict)

    def __add__(self, other: "Counts") -> "Counts":
        dropped = Counter(self.dropped) + Counter(other.dropped)
        return Counts(
            input=self.input + other.input, kept=self.kept + other.kept, dropped=dict(sorted(dropped.items()))
        )


class Record(_Frozen):
    """Parts, counts and facts of one finished task of a stage."""

    task: str
    parts: list[Part] = []
    counts: Counts = Counts()
    facts: dict[str, Any] = {}
    scratch: list[tuple[str, int]] = []
    """Name and size of each scratch object that `done` must find."""


class _Log(_Frozen):
    """Records of finished tasks; see RecordLog."""

    records: list[Record]


class Manifest(Stored):
    """manifest.json: parts, counts and inputs of a complete snapshot.

    Format 2 has parts with a home, and in format 3 the parts are in a table (dataops/parts.py).
    """

    model_config = ConfigDict(frozen=True)

    newest_format: ClassVar[int] = 3

    stage: str
    stage_version: int
    key: str
    inputs: list[Input]
    config: dict[str, Any]
    seed: int
    code: dict[str, Any]
    parts: Sequence[Part]
    table: Part | None = Field(default=None, exclude_if=lambda table: table is None)
    """The object with the parts, if they are many."""
    counts: Counts
    facts: dict[str, Any] = Field(default_factory=dict)
    content_digest: str
    created_at: str
    prefect_flow_run_id: str | None = None
    mlflow_run_id: str | None = None

    @field_serializer("parts")
    def _list_parts(self, parts: Sequence[Part]) -> list[Part]:
        return [*parts]

    def encode(self) -> bytes:
        """Return the bytes of manifest.json: JSON whose first field is the sha256 of all bytes after it."""
        listed = self.model_copy(update={"parts": []}) if self.table else self
        rest = listed.model_dump_json(indent=2).encode()[1:]
        return b'{\n  "sha256": "%s",%s' % (hashlib.sha256(rest).hexdigest().encode(), rest)

    @classmethod
    def decode(cls, data: bytes, where: str = MANIFEST) -> "Manifest":
        """Return the manifest that `encode` wrote, or one without a sha256; parts in a table are not among its parts.

        Raises: ValueError if it is damaged; NewerFormat.
        """
        found = _MANIFEST_DIGEST.match(data)
        if found is None:
            manifest = cls.parse(data, where)
            if manifest.model_extra:  # only versions that write a sha256 know further fields
                raise ValueError("it has unknown fields, but no sha256 of itself")
            return manifest
        rest = data[found.end() :]
        if hashlib.sha256(rest).hexdigest().encode() != found[1]:
            raise ValueError("its bytes differ from its own sha256")
        return cls.parse(b"{" + rest, where)

    @cached_property
    def homes(self) -> dict[str, str]:
        """Names of the snapshots whose objects some of the parts are, by the names of these parts."""
        if isinstance(self.parts, PartTable):
            return self.parts.homes()
        return {part.name: part.home for part in self.parts if part.home}

    @property
    def objects(self) -> Iterator[Part]:
        """Its parts, and their table."""
        return chain([self.table] if self.table else [], self.parts)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy, for whose parts `homes` is computed again."""
        copied = super().model_copy(update=update, deep=deep)
        vars(copied).pop("homes", None)
        return copied

    def summarise(self, most: int = MANY_PARTS) -> Self:
        """Return it for those who read no part, such as MLflow: of more than `most` parts, only their numbers and pages."""
        if len(self.parts) <= most:
            return self
        left_out = [part for part in self.parts if part.name.endswith(DATA)]
        numbers = {
            "parts": len(left_out),
            "rows": sum(p.rows for p in left_out),
            "bytes": sum(p.bytes for p in left_out),
        }
        pages = [part for part in self.parts if not part.name.endswith(DATA)]
        return self.model_copy(update={"parts": pages, "table": None, "left_out": numbers})

    def path(self, name: str) -> str:
        """Return the name in the store of one of the snapshot's parts."""
        return f"{self.homes.get(name) or f'{self.stage}/{self.key}'}/{name}"

    def named(self, prefix: str, suffix: str = "") -> list[Part]:
        """Return the parts whose names have this prefix and suffix, sorted by name."""
        if isinstance(self.parts, PartTable):
            return [*self.parts.named(prefix, suffix)]
        found = (p for p in self.parts if p.name.startswith(prefix) and p.name.endswith(suffix))
        return sorted(found, key=lambda p: p.name)

    def as_input(self) -> Input:
        """Return this snapshot as an input of another."""
        return Input(stage=self.stage, key=self.key, digest=self.content_digest)


def snapshot_key(stage: str, version: int, config: Mapping[str, object], seed: int, inputs: Sequence[Input]) -> str:
    """Return the first 16 hex digits of the sha256 of all that determines a snapshot's content.

    No clock, host, path of the store or run id enters. Of the inputs only the content digests
    enter, so an input that was remade with the same content does not change the key.
    """
    identity = {
        "stage": stage,
        "version": version,
        "config": config,
        "seed": seed,
        "inputs": [[i.stage, i.digest] for i in inputs],
    }
    return text_sha256(canonical_json(identity))[:16]


def content_digest(parts: Iterable[Part]) -> str:
    """Return the sha256 of the sorted digests of all parts except `evidence-*`, `index-*` and UNDIGESTED."""
    digests = sorted(p.sha256 for p in parts if not p.name.startswith((EVIDENCE, INDEX)) and p.name not in UNDIGESTED)
    return text_sha256("\n".join(digests))


def find_manifest(store: Store, stage: str, key: str, *, verify: bool = False) -> Manifest | None:
    """Return the manifest of a complete snapshot, or None.

    Args:
        verify: read every part and compare its sha256, not only its size.

    Raises: CorruptPart when a part is missing or differs from the manifest, or the manifest is invalid (a power loss may
        leave an empty file); it names the object and the remedy.
    """
    if (manifest := load_manifest(store, stage, key)) is None:
        return None
    sizes: dict[str, int] = {}
    for folder in {f"{stage}/{key}", *manifest.homes.values()} if len(manifest.parts) > LISTED else ():
        sizes |= _list_sizes(store, folder)
    for part in manifest.objects:
        where = manifest.path(part.name)
        size = sizes.get(where) or store.size(where)
        if size is None:
            raise _damaged(store, where, f"is missing, but {MANIFEST} names it")
        if size != part.bytes:
            raise _damaged(store, where, f"has {size:,} bytes, but {part.bytes:,} in {MANIFEST}")
        if verify:
            local_part(store, where, part.sha256)
    return manifest


def _damaged(store: Store, name: str, how: str) -> CorruptPart:
    return CorruptPart(f"{store.uri}/{name} {how}; `run --verify` remakes it")


def local_part(store: Store, name: str, sha256: str) -> Path:
    """Return a local file of a part, compared with the digest in its manifest. Raises: CorruptPart."""
    path = store.local(name)
    if file_sha256(path) != sha256:
        raise _damaged(store, name, f"is damaged: its sha256 differs from that in {MANIFEST}")
    return path


def local_parts(store: Store, manifest: Manifest, names: Sequence[str]) -> dict[str, Path]:
    """Return `local_part` of those parts that the snapshot has, by name."""
    return {p.name: local_part(store, manifest.path(p.name), p.sha256) for p in manifest.parts if p.name in names}


def load_manifest(store: Store, stage: str, key: str) -> Manifest | None:
    """Return the manifest of a snapshot without checking its parts; None if there is none.

    Raises: CorruptPart when the manifest is invalid.
    """
    name = f"{stage}/{key}/{MANIFEST}"
    if (data := store.find(name)) is None:
        return None
    try:
        manifest = decode_manifest(store, name, data)
    except ValidationError as error:
        what = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'manifest'}: {e['msg']}" for e in error.errors()[:5])
        raise CorruptPart(f"{store.uri}/{name} is not a manifest ({what}); a run of its config remakes it") from error
    except ValueError as error:
        raise CorruptPart(f"{store.uri}/{name} is damaged: {error}; a run of its config remakes it") from error
    if (manifest.stage, manifest.key) != (stage, key):
        raise CorruptPart(
            f"{store.uri}/{name} is the manifest of {manifest.stage}/{manifest.key}; a run of its config remakes it"
        )
    return manifest


def decode_manifest(store: Store, name: str, data: bytes) -> Manifest:
    """Return the manifest in these bytes of an object of the store. Raises: as `Manifest.decode`."""
    manifest = Manifest.decode(data, f"{store.uri}/{name}")
    return _with_table(store, manifest, manifest.table) if manifest.table else manifest


def _with_table(store: Store, manifest: Manifest, table: Part) -> Manifest:
    parts = PartTable(store, f"{manifest.stage}/{manifest.key}/{table.name}", table)
    return manifest.model_copy(update={"schema_version": 3, "parts": parts, "table": table})


def _list_sizes(store: Store, prefix: str) -> dict[str, int]:
    """Return the size of each object below a prefix: one request for 1,000 of them."""
    return {entry.name: entry.bytes for entry in store.entries(prefix)}


def load_ancestors(store: Store, manifest: Manifest) -> dict[str, Manifest]:
    """Return a snapshot and its direct and indirect inputs that are still in the store, by stage; itself first.

    Inputs from outside the store have keys such as URLs, which are no names of objects.
    """
    found, todo = {manifest.stage: manifest}, list(manifest.inputs)
    while todo:
        source = todo.pop(0)
        if source.stage in found or source.stage not in STAGES:
            continue
        if (above := load_manifest(store, source.stage, source.key)) is not None:
            found[source.stage] = above
            todo += above.inputs
    return found


class Fence(_Frozen):
    """Generation and token of the lease (tasks/engine/lease.py) that a writer of parts must hold."""

    generation: int
    token: str


class Draft:
    """Write a snapshot. Each process of a run opens its own Draft on the same key.

    Args:
        fence: the run's lease; with it, writes raise LeaseLost after another run took over.
    """

    def __init__(self, store: Store, stage: str, key: str, fence: Fence | None = None):
        self.store, self.stage, self.key, self.fence = store, stage, key, fence
        self._written: list[tuple[str, int]] = []  # scratch objects of the task that runs
        self._is_checked = False

    def lease_name(self, generation: int) -> str:
        """Return the name in the store of the lease of one generation. The highest existing one is valid."""
        return self.scratch(f"lease-{generation:05d}.json")

    def is_lease(self, name: str) -> bool:
        """Return whether an object of the store is one of this snapshot's leases."""
        return name.startswith(self.scratch("lease-"))

    def clear(self, is_kept: Callable[[str], bool]) -> None:
        """Delete all objects of the snapshot but some; the manifest first, so that none names missing parts."""
        self.store.delete([self.path(MANIFEST)])
        self.store.delete([name for name in self.store.names(f"{self.stage}/{self.key}") if not is_kept(name)])

    def is_complete(self) -> bool:
        """Return whether the manifest exists."""
        return self.store.size(self.path(MANIFEST)) is not None

    def check_fence(self) -> None:
        """Raise LeaseLost when this draft has a lease and another run has taken over, or cleared the snapshot."""
        if self.fence is None or self._is_checked:
            return
        mine, next_one = (self.lease_name(self.fence.generation + more) for more in (0, 1))
        if self.store.size(next_one) is not None or not self._is_mine(self.store.find(mine)):
            raise LeaseLost(f"{self.stage} {self.key}: another run took over this snapshot, so this run stops")

    @contextmanager
    def checked_once(self) -> Iterator[None]:
        """Check the lease now, and not for each of some small objects that are written in the `with` by this thread."""
        self.check_fence()
        before, self._is_checked = self._is_checked, True
        try:
            yield
        finally:
            self._is_checked = before

    def _is_mine(self, lease: bytes | None) -> bool:
        try:
            return json.loads(lease or b"{}").get("token") == getattr(self.fence, "token", None)
        except ValueError:  # this run did not write a damaged lease
            return False

    def path(self, name: str) -> str:
        """Return the name in the store of one of the snapshot's objects."""
        return f"{self.stage}/{self.key}/{name}"

    def folder_of(self, part: Part) -> str:
        """Return the name in the store of the snapshot that has the object of a part."""
        return part.home or f"{self.stage}/{self.key}"

    def put_table(self, name: str, table: pa.Table) -> Part:
        """Write a table as a zstd Parquet part. The same table gives the same bytes."""
        uids = table["uid"].to_pylist() if "uid" in table.column_names else None
        return self.put_bytes(name, encode_table(table, ROW_GROUP).to_pybytes(), table.num_rows, uids)

    def put_bytes(self, name: str, data: bytes | memoryview, rows: int = 0, uids: Iterable[str] | None = None) -> Part:
        """Write bytes as a part."""
        self.check_fence()
        self.store.put(self.path(name), data)
        digest = hashlib.sha256(data).hexdigest()
        fingerprint = None if uids is None else uid_sum(uids)
        return Part(name=name, rows=rows, bytes=len(data), sha256=digest, uid_sum=fingerprint)

    def put_chunks(self, name: str, pieces: Callable[[], Iterator[memoryview]], rows: int = 0) -> Part:
        """Write a large part from chunks, with direct I/O where possible; see `Store.put_chunks`."""
        self.check_fence()
        digest, size = hashlib.sha256(), 0

        def digested() -> Iterator[memoryview]:
            nonlocal digest, size
            digest, size = hashlib.sha256(), 0
            with ThreadPoolExecutor(1) as thread:
                for piece in pieces():
                    size += len(piece)
                    hashed = thread.submit(digest.update, piece)  # while the store writes it
                    yield piece
                    hashed.result()

        if self.store.is_remote:  # it sends the digest before the bytes, so they are made twice
            for _ in digested():
                pass
            self.store.put_chunks(self.path(name), pieces, sha256=digest.hexdigest())
        else:
            self.store.put_chunks(self.path(name), digested, direct=True)
        return Part(name=name, rows=rows, bytes=size, sha256=digest.hexdigest())

    def put_file(self, name: str, path: Path, rows: int = 0) -> Part:
        """Write a local file as a part."""
        self.check_fence()
        self.store.put(self.path(name), path)
        return Part(name=name, rows=rows, bytes=path.stat().st_size, sha256=file_sha256(path))

    def scratch(self, name: str) -> str:
        """Return the name in the store of an object that is deleted when the snapshot is complete."""
        return self.path(f"_work/{name}")

    def put_scratch(self, name: str, pieces: Callable[[], Iterator[memoryview]], *, synced: bool = False) -> None:
        """Write a scratch object from chunks; by default without a sync to the disk, which takes longer than a small write.

        A power loss may lose or empty it. The record of the task has its size, so `done` returns
        None then, and the task is repeated. So only tasks may write such objects, and what reads
        them must check their content.
        """
        size = 0

        def counted() -> Iterator[memoryview]:
            nonlocal size
            size = 0
            for piece in pieces():
                size += len(piece)
                yield piece

        self.store.put_chunks(self.scratch(name), counted, synced=synced)
        if not self.store.is_remote:  # a remote store has synced it
            self._written.append((name, size))

    def done(self, task: str) -> Record | None:
        """Return the record of a finished task, or None if it or an object that the task wrote is missing or damaged."""
        return self.finished([task]).get(task)

    def resume(self, tasks: Iterable[str]) -> dict[str, Record]:
        """Return the records of those of the tasks of a map that earlier runs have finished: see `finished`.

        The first run of a snapshot asks nothing.
        """
        return {} if self.fence and self.fence.generation == 1 else self.finished(tasks)

    def finished(self, tasks: Iterable[str] | None = None) -> dict[str, Record]:
        """Return the records of those of the tasks that are finished, by few requests; see `done`. None: of all tasks.

        The record of a task of its own is newer than that in a log: the task was repeated because a part was lost.
        """
        sizes = _list_sizes(self.store, f"{self.stage}/{self.key}")
        records = sorted(name for name in sizes if name.startswith(self.scratch("")) and name.endswith(".json"))
        wanted = None if tasks is None else {self.scratch(f"{task}.json") for task in tasks}
        logs = [name for name in records if name.startswith(self.scratch(LOG))]
        own = [name for name in records if name not in logs and (wanted is None or name in wanted)]
        found: dict[str, Record] = {}
        with ThreadPoolExecutor(READS_AT_ONCE) as pool:
            read = list(pool.map(self.store.find, [*logs, *own]))
        for number, data in enumerate(read):
            with suppress(ValidationError):  # the tasks of a damaged object are repeated
                kind = _Log if number < len(logs) else Record
                one = kind.model_validate_json(data or b"")
                found |= {record.task: record for record in (one.records if isinstance(one, _Log) else [one])}
        return {
            task: one
            for task, one in found.items()
            if (wanted is None or self.scratch(f"{task}.json") in wanted) and self._is_whole(one, sizes)
        }

    def _is_whole(self, record: Record, sizes: Mapping[str, int]) -> bool:
        written = [(self.path(part.name), part.bytes) for part in record.parts]
        written += [(self.scratch(scratch), size) for scratch, size in record.scratch]
        return all(sizes.get(one) == size for one, size in written)

    def finish(self, record: Record) -> Record:
        """Write the record of a finished task, after its parts."""
        self.check_fence()
        record, self._written = record.model_copy(update={"scratch": self._written}), []
        self.store.put(self.scratch(f"{record.task}.json"), record.model_dump_json().encode())
        return record

    def commit(self, manifest: Manifest) -> Manifest:
        """Write the manifest, or return that of the first writer, and then delete the scratch files.

        In this order, runs that wait for this snapshot see the lease until they can see the manifest.
        """
        self.check_fence()
        manifest = self._put_parts(manifest)
        if not self.store.create(self.path(MANIFEST), manifest.encode()):
            manifest = load_manifest(self.store, self.stage, self.key) or manifest
        self.store.delete_tree(self.path("_work"))
        return manifest

    def replace(self, manifest: Manifest) -> None:
        """Write the manifest in place of that of the complete snapshot; a former table of parts is deleted after it."""
        self.check_fence()
        after = self._put_parts(manifest)
        self.store.put(self.path(MANIFEST), after.encode())
        if manifest.table and manifest.table != after.table:
            self.store.delete([self.path(manifest.table.name)])

    def _put_parts(self, manifest: Manifest) -> Manifest:
        """Write the table of the parts, if they are many, and return the manifest that names it."""
        if isinstance(manifest.parts, PartTable):
            return manifest
        if len(manifest.parts) <= MANY_PARTS:
            return manifest.model_copy(update={"table": None})
        data, table = encode_parts(manifest.parts)
        self.store.put(self.path(table.name), data)
        return _with_table(self.store, manifest, table)


class RecordLog:
    """Move records of finished tasks into few objects, so that a resume reads one object for LOG_RECORDS tasks.

    Only the run that holds the lease writes it, and each map a log of its own.
    """

    def __init__(self, draft: Draft):
        self._draft, self._records, self._saved, self._number = draft, list[Record](), 0, 0
        generation = draft.fence.generation if draft.fence else 0
        self._name = f"{LOG}{generation:05d}-{secrets.token_hex(4)}"

    def add(self, record: Record) -> None:
        """Add the record of a task that has finished."""
        self._records.append(record)
        if len(self._records) - self._saved == LOGGED_AT_ONCE:
            self._save()

    def end(self) -> None:
        """Save the other records, if any were saved before."""
        if self._number or self._saved:
            self._save()

    def _save(self) -> None:
        draft, new = self._draft, self._records[self._saved :]
        draft.check_fence()
        data = _Log(records=self._records).model_dump_json().encode()
        draft.store.put(draft.scratch(f"{self._name}-{self._number:05d}.json"), data)
        draft.check_fence()
        draft.store.delete([draft.scratch(f"{record.task}.json") for record in new])
        self._saved = len(self._records)
        if self._saved >= LOG_RECORDS:
            self._records, self._saved, self._number = [], 0, self._number + 1


def read_parts(store: Store, manifest: Manifest, prefix: str = "part-", columns: list[str] | None = None) -> pa.Table:
    """Read all parts `<prefix>*.parquet` of a snapshot as one table, sorted by name."""
    names = [manifest.path(p.name) for p in manifest.named(prefix, ".parquet")]
    return pa.concat_tables([read_table(store, name, columns) for name in names]) if names else pa.table({})


def read_table(store: Store, name: str, columns: list[str] | None = None) -> pa.Table:
    """Read those of the columns that one Parquet object has. Raises: CorruptPart when it is damaged."""
    with store.open(name) as file:
        return read_parquet(file, f"{store.uri}/{name}", columns)


def fetch_table(store: Store, name: str, columns: list[str] | None = None) -> pa.Table:
    """Read one Parquet object of some megabytes into memory, by one request. Raises: as read_table."""
    return read_parquet(io.BytesIO(store.read(name)), f"{store.uri}/{name}", columns)


class SnapshotName(NamedTuple):
    """Name of a snapshot, complete or not."""

    stage: str
    key: str

    def __str__(self) -> str:
        return f"{self.stage}/{self.key}"
