"""A store under s3://bucket/prefix, through boto3. Endpoint, region and credentials come from the environment (AWS_*).

Each object has the sha256 of its bytes as metadata, and every read is compared with it: for a
multipart object not all servers compute the same checksum of the whole. Small objects are sent in
one request, large ones in parts, each with a checksum that the server verifies. `sweep` aborts the
multipart uploads that killed writers left unfinished.
"""

import hashlib
import io
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import urlsplit

from boto3.s3.transfer import TransferConfig
from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from dataops.digest import file_sha256
from dataops.errors import StorageError
from dataops.storage.base import Entry, Store, check_name, storage_errors
from dataops.storage.cache import Cache, Version
from dataops.storage.s3_requests import (
    FIRST_PAUSE,
    OUTLAST_SECONDS,
    CorruptTransfer,
    S3Requests,
    error_code,
    explain_setup_error,
    http_status,
    is_transient,
)

T = TypeVar("T")

MIB = 1 << 20
PARTS = TransferConfig(multipart_threshold=16 * MIB, multipart_chunksize=16 * MIB, max_concurrency=4, max_io_queue=64)
"""At most 64 blocks of 256 KiB wait for a slow disk; boto's default is 256 MB in all."""
STREAM_PARTS = TransferConfig(multipart_threshold=16 * MIB, multipart_chunksize=32 * MIB, max_concurrency=2)
STREAM_PARTS.max_in_memory_upload_chunks = 2
"""At most four parts are in memory: two that are sent, and two that wait."""
COPY_PARTS = TransferConfig(multipart_threshold=1024 * MIB, multipart_chunksize=512 * MIB, max_concurrency=4)
"""One CopyObject request copies at most 5 GB; smaller ones also end within the read timeout."""
RANGES_AT_ONCE = 8
DELETE_BATCH = 1000
"""Maximum number of keys in one DeleteObjects request."""


@dataclass(frozen=True)
class Transfers:
    """How a store sends its requests."""

    stream_parts: TransferConfig = STREAM_PARTS
    copy_parts: TransferConfig = COPY_PARTS
    range_share: float = 4
    """If less than one part in `range_share` of an object is read, only the ranges are fetched, not the whole object."""
    outlast_seconds: float = OUTLAST_SECONDS
    check_seconds: float = 10.0
    """Seconds for which check_writable retries: nobody waits for a server before work begins."""
    first_pause: float = FIRST_PAUSE


class S3Store(Store):
    """A store under s3://bucket/prefix."""

    is_remote = True

    def __init__(self, bucket: str, prefix: str, transfers: Transfers | None = None):
        self.bucket, self.prefix, self.transfers = bucket, prefix.strip("/"), transfers or Transfers()
        self._root = f"{self.prefix}/" if self.prefix else ""
        self.uri = f"s3://{bucket}/{self._root}".rstrip("/")
        # Few attempts of boto: S3Requests retries, logs, and distinguishes transient failures.
        config = Config(retries={"mode": "standard", "total_max_attempts": 2}, connect_timeout=5, read_timeout=60)
        try:
            self._s3: Any = Session().client("s3", config=config)
        except (BotoCoreError, ValueError) as error:
            raise explain_setup_error(error, self.uri) from error
        host = urlsplit(self._s3.meta.endpoint_url).netloc.rpartition("@")[2]
        self.where = f"{self.uri} at {host}"
        self._call = S3Requests(self.where, self.transfers.outlast_seconds, self.transfers.first_pause)
        self._cache = Cache(host)

    def __reduce__(self) -> tuple[Any, ...]:  # a job of a cluster opens it with the credentials of its own machine
        return S3Store, (self.bucket, self.prefix, self.transfers)

    def _key(self, name: str) -> str:
        return self._root + check_name(name)

    def _at(self, name: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self._key(name)}

    def _head(self, name: str) -> dict[str, Any] | None:
        """Return the metadata of an object, or None if there is none."""
        try:
            return self._s3.head_object(**self._at(name))
        except ClientError as error:
            if http_status(error) == 404:
                return None
            if is_transient(error) or not error_code(error).isdigit():
                raise
            try:  # a response to HEAD has no reason: this request gets one
                self._s3.get_object(**self._at(name), Range="bytes=0-0")
            except self._s3.exceptions.NoSuchKey:
                return None
            raise

    def _metadata(self, name: str) -> dict[str, Any]:
        return self._call(f"get the metadata of {name}", lambda: self._head(name)) or {}

    def size(self, name: str) -> int | None:
        return self._metadata(name).get("ContentLength")

    def sha256(self, name: str) -> str | None:
        return self._metadata(name).get("Metadata", {}).get("sha256")

    def find(self, name: str) -> bytes | None:
        def get() -> bytes:
            answer = self._s3.get_object(**self._at(name))
            data = answer["Body"].read()
            _check(hashlib.sha256(data).hexdigest(), answer)
            return data

        return self._request(name, "read", get)

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """Read ranges as every store does, but fetch few ranges of a large object by a request each."""
        if self.transfers.range_share * sum(size for _, size in ranges) >= (self.size(name) or 0):
            yield from super().read_ranges(name, ranges)
            return

        def get(offset: int, size: int) -> bytes:
            return self._whole(name, self._read_range(name, offset, size) if size else b"", offset, size)

        with ThreadPoolExecutor(RANGES_AT_ONCE) as pool:
            yield from pool.map(get, *zip(*ranges, strict=True))

    def read_each(self, ranges: Sequence[tuple[str, int, int]]) -> Iterator[bytes]:
        with ThreadPoolExecutor(RANGES_AT_ONCE) as pool:
            for start in range(0, len(ranges), RANGES_AT_ONCE):  # not all are in memory at once
                yield from pool.map(self._read_range, *zip(*ranges[start : start + RANGES_AT_ONCE], strict=True))

    def _read_range(self, name: str, offset: int, size: int) -> bytes:
        span = f"bytes={offset}-{offset + size - 1}"
        return self._existing(
            name, "read a part of", lambda: self._s3.get_object(**self._at(name), Range=span)["Body"].read()
        )

    def _request(self, name: str, what: str, request: Callable[[], T | None]) -> T | None:
        """Return the answer to a request for an object, or None if there is no such object."""

        def request_or_none() -> T | None:
            try:
                return request()
            except self._s3.exceptions.NoSuchKey:
                return None

        return self._call(f"{what} {name}", request_or_none)

    def _existing(self, name: str, what: str, request: Callable[[], T | None]) -> T:
        if (answer := self._request(name, what, request)) is None:
            raise StorageError(f"no such object: {name} in {self.where}")
        return answer

    def put(self, name: str, data: bytes | memoryview | Path) -> None:
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        digest = file_sha256(data) if isinstance(data, Path) else hashlib.sha256(data).hexdigest()
        extra = {"ChecksumAlgorithm": "SHA256", "Metadata": {"sha256": digest}}
        if size < PARTS.multipart_threshold:
            body = data.read_bytes() if isinstance(data, Path) else bytes(data)
            self._call(f"write {name}", lambda: self._s3.put_object(**self._at(name), Body=body, **extra))
            return

        def upload() -> None:
            source = data.open("rb") if isinstance(data, Path) else io.BytesIO(data)
            with source:
                self._s3.upload_fileobj(source, self.bucket, self._key(name), ExtraArgs=extra, Config=PARTS)
            self._verify(name, size, digest)

        self._call(f"write {name}", upload)

    def put_chunks(
        self,
        name: str,
        pieces: Callable[[], Iterator[memoryview]],
        *,
        direct: bool = False,
        synced: bool = True,
        sha256: str | None = None,
    ) -> None:
        extra = {"ChecksumAlgorithm": "CRC32", "Metadata": {} if sha256 is None else {"sha256": sha256}}

        def upload() -> None:
            parts = self.transfers.stream_parts
            with _ChunkReader(pieces()) as source:
                self._s3.upload_fileobj(source, self.bucket, self._key(name), ExtraArgs=extra, Config=parts)
                if source.size >= parts.multipart_threshold:
                    self._verify(name, source.size, sha256 or "")

        self._call(f"write {name}", upload)

    def _verify(self, name: str, size: int, digest: str) -> None:
        """Check that all parts are there; the server has verified each."""
        head = self._head(name)
        if head is None or head["ContentLength"] != size or head["Metadata"].get("sha256", digest) != digest:
            found = "nothing" if head is None else f"{head['ContentLength']} bytes"
            raise CorruptTransfer(f"{size} bytes were written, the store has {found}")

    def create(self, name: str, data: bytes) -> bool:
        mark = secrets.token_hex(16)
        meta = {"sha256": hashlib.sha256(data).hexdigest(), "writer": mark}

        def put_if_new() -> bool:
            extra = {"ChecksumAlgorithm": "SHA256", "Metadata": meta}
            try:
                self._s3.put_object(**self._at(name), Body=data, IfNoneMatch="*", **extra)
            except ClientError as error:
                if http_status(error) != 412:
                    raise  # 409 (another conditional put is running) is retried
                # The object exists. This writer may have put it in an attempt whose answer was lost.
                head = self._head(name)
                return put_if_new() if head is None else head["Metadata"].get("writer") == mark
            return True

        return self._call(f"create {name}", put_if_new)

    def copy(self, source: str, target: str) -> None:
        def copy() -> bool:
            head = self._head(source)
            if head is None:
                return False
            extra = {"Metadata": head["Metadata"], "MetadataDirective": "REPLACE"}  # a multipart copy keeps no metadata
            parts = self.transfers.copy_parts
            self._s3.copy(self._at(source), self.bucket, self._key(target), ExtraArgs=extra, Config=parts)
            self._verify(target, head["ContentLength"], head["Metadata"].get("sha256", ""))
            return True

        if not self._call(f"copy {source} to {target}", copy):
            raise StorageError(f"no such object: {source} in {self.where}")

    def entries(self, prefix: str) -> list[Entry]:
        base = self._key(f"{prefix}/") if prefix else self._root
        cut = len(self._root)

        def pages() -> list[Entry]:
            listed = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=base)
            items = (item for page in listed for item in page.get("Contents", []))
            return [Entry(item["Key"][cut:], item["Size"], item["LastModified"].timestamp()) for item in items]

        return sorted(self._call(f"list {prefix or '/'}", pages))

    def delete(self, names: Sequence[str]) -> None:
        for start in range(0, len(names), DELETE_BATCH):
            batch = names[start : start + DELETE_BATCH]
            keys = [{"Key": self._key(name)} for name in batch]

            def delete(keys: list[dict[str, str]] = keys) -> None:
                answer = self._s3.delete_objects(Bucket=self.bucket, Delete={"Objects": keys, "Quiet": True})
                for error in answer.get("Errors", []):
                    raise ClientError(
                        {"Error": {**error, "Message": f"{error.get('Key')}: {error.get('Message')}"}}, "DeleteObjects"
                    )

            self._call(f"delete {batch[0]}" + (f" and {len(batch) - 1} more" if len(batch) > 1 else ""), delete)

    def delete_tree(self, prefix: str) -> None:
        self.delete([*self.names(prefix), prefix])

    def sweep(self, prefix: str, older_than_seconds: float = 0.0) -> int:
        base = self._key(f"{prefix}/") if prefix else self._root

        def abort() -> int:
            swept = 0
            pages = self._s3.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=base)
            for upload in [found for page in pages for found in page.get("Uploads", [])]:
                age = datetime.now(UTC) - upload["Initiated"]
                if not older_than_seconds or age >= timedelta(seconds=older_than_seconds):
                    self._s3.abort_multipart_upload(Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"])
                    swept += 1
            return swept

        return self._call(f"abort unfinished uploads below {prefix or '/'}", abort)

    def local(self, name: str, keep_in: Path | None = None) -> Path:
        def get(head: dict[str, Any]) -> Path:
            version = Version(head["ContentLength"], int(head["LastModified"].timestamp()), head["ETag"])
            where = f"{self.bucket}/{self._key(name)}"
            return self._cache.get(where, version, lambda path: self._download(name, head, path), keep_in)

        with storage_errors(f"cannot keep a local copy of {name} in {self.where}", self._cache.root):
            return self._fetch(name, get)

    def _fetch(self, name: str, get: Callable[[dict[str, Any]], T]) -> T:
        """Return what `get` makes of the metadata of an object."""

        def fetch() -> T | None:
            head = self._head(name)
            return None if head is None else get(head)

        return self._existing(name, "fetch", fetch)

    @contextmanager
    def open_once(self, name: str) -> Iterator[BinaryIO]:
        """Open as every store does, by requests of PARTS; the local copy has no name, so a killed process leaves none."""
        with tempfile.TemporaryFile() as file:

            def get(head: dict[str, Any]) -> int:
                file.truncate(0)
                self._s3.download_fileobj(self.bucket, self._key(name), file, Config=PARTS)
                file.seek(0)
                _check(hashlib.file_digest(file, "sha256").hexdigest(), head)
                return file.tell()

            with storage_errors(f"cannot copy {name} of {self.where}", Path(tempfile.gettempdir())):
                self._fetch(name, get)
            file.seek(0)
            yield cast(BinaryIO, file)

    def download(self, name: str, path: Path) -> None:
        with storage_errors(f"cannot copy {name} of {self.where} to {path}", path.parent):
            self._fetch(name, lambda head: self._download(name, head, path))

    def _download(self, name: str, head: dict[str, object], path: Path) -> bool:
        self._s3.download_file(self.bucket, self._key(name), str(path), Config=PARTS)
        _check(file_sha256(path), head)
        return True

    @contextmanager
    def retrying_for(self, seconds: float) -> Iterator[None]:
        usual, self._call.outlast_seconds = self._call.outlast_seconds, seconds
        try:
            yield
        finally:
            self._call.outlast_seconds = usual

    def check_readable(self) -> None:
        with self.retrying_for(self.transfers.check_seconds):
            super().check_readable()

    def check_writable(self) -> None:
        with self.retrying_for(self.transfers.check_seconds):
            super().check_writable()


class _ChunkReader(io.RawIOBase):
    """File over chunks that can be read once."""

    def __init__(self, chunks: Iterator[memoryview]):
        super().__init__()
        self._chunks, self._rest = chunks, memoryview(b"")
        self.size = 0
        """Number of bytes that were read."""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Return `size` bytes, or fewer at the end only; all if no size is given."""
        found, left = io.BytesIO(), size if size >= 0 else sys.maxsize
        while left and (self._rest or self._next_chunk()):
            count = found.write(self._rest[:left])
            self._rest, left, self.size = self._rest[count:], left - count, self.size + count
        return found.getvalue()

    def _next_chunk(self) -> bool:
        self._rest = next(filter(len, self._chunks), memoryview(b""))
        return len(self._rest) > 0


def _check(digest: str, answer: dict[str, Any]) -> None:
    """Compare the digest of the received bytes with that of the written ones.

    Raises: CorruptTransfer. An object of another program has no digest, and is accepted.
    """
    written = answer["Metadata"].get("sha256", digest)
    if written != digest:
        raise CorruptTransfer(f"its bytes have the sha256 {digest}, the written ones had {written}")
