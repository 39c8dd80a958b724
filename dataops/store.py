"""The one door to storage: a folder, or a prefix in an S3 bucket through boto3.

Objects are immutable once a manifest names them, so there is no locking: `put` is atomic (a reader sees all of an object
or nothing of it), `create` lets exactly one of several writers win. Names are relative, `/`-separated, and can never
leave the store.
"""

import os
import re
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from dataops.errors import ConfigError, StorageError
from dataops.secrets import private_folder


def check_name(name: str) -> str:
    """Return `name` when it is a plain relative object name, else raise StorageError: nothing escapes its folder."""
    path = PurePosixPath(name)
    bad = (
        not name or path.is_absolute() or "\\" in name or "\0" in name or any(p in ("..", ".") for p in name.split("/"))
    )
    if bad or str(path) != name.rstrip("/"):
        msg = f"object name {name!r} is not a plain relative path"
        raise StorageError(msg)
    return name


class Store(ABC):
    """What every store does. All failures are StorageError and name the object."""

    uri: str

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Bytes of the object, or None where there is none."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The whole object."""

    @abstractmethod
    def put(self, name: str, data: bytes | Path) -> None:
        """Write the object atomically, over an older one; `data` is bytes or a local file."""

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Write the object only where there is none yet. False when another writer was first."""

    @abstractmethod
    def copy(self, source: str, target: str) -> None:
        """Make `target` the same object as `source`, without moving bytes through this machine where that can be."""

    @abstractmethod
    def names(self, prefix: str) -> list[str]:
        """Sorted names below a folder-like prefix ('' is the whole store)."""

    @abstractmethod
    def delete_tree(self, prefix: str) -> None:
        """Delete all below a folder-like prefix; nothing there is no error."""

    @abstractmethod
    def local(self, name: str) -> Path:
        """A local file with the object's bytes, to be read and never written: the object itself, or a cached copy."""

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """The object as a seekable binary file."""
        with self.local(name).open("rb") as file:
            yield file

    def check_writable(self) -> None:
        """Raise StorageError with the remedy unless an object can be written and deleted."""
        name = f"_probe/{os.getpid()}"
        self.put(name, b"pairmill")
        self.delete_tree("_probe")


class FolderStore(Store):
    """A store in a local (or mounted) folder."""

    def __init__(self, root: Path):
        self.root = root.expanduser().absolute()
        self.uri = str(self.root)

    def _path(self, name: str) -> Path:
        path = self.root / check_name(name)
        if not path.resolve().is_relative_to(self.root.resolve()):  # a link that someone planted
            msg = f"{path} is a link out of the store; remove it"
            raise StorageError(msg)
        return path

    def size(self, name: str) -> int | None:
        try:
            return self._path(name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read(self, name: str) -> bytes:
        with _storage_errors(f"cannot read {self.root / name}"):
            return self._path(name).read_bytes()

    def _temporary(self, target: Path, data: bytes | Path) -> Path:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".tmp-", dir=target.parent)
        with os.fdopen(handle, "wb") as out:
            if isinstance(data, bytes):
                out.write(data)
            else:
                with data.open("rb") as source:
                    shutil.copyfileobj(source, out, 1 << 20)
            out.flush()
            os.fsync(out.fileno())
        Path(temporary).chmod(0o644)
        return Path(temporary)

    def put(self, name: str, data: bytes | Path) -> None:
        target = self._path(name)
        with _storage_errors(f"cannot write {target}"):
            temporary = self._temporary(target, data)
            temporary.replace(target)

    def create(self, name: str, data: bytes) -> bool:
        target = self._path(name)
        with _storage_errors(f"cannot write {target}"):
            temporary = self._temporary(target, data)
            try:
                os.link(temporary, target)  # fails where the name exists: the atomic "only if new"
            except FileExistsError:
                return False
            finally:
                temporary.unlink()
        return True

    def copy(self, source: str, target: str) -> None:
        destination = self._path(target)
        with _storage_errors(f"cannot copy {source} to {target} in {self.root}"):
            destination.parent.mkdir(parents=True, exist_ok=True)
            destination.unlink(missing_ok=True)
            try:
                os.link(self._path(source), destination)
            except OSError:  # a file system without hard links
                self.put(target, self._path(source))

    def names(self, prefix: str) -> list[str]:
        base = self._path(prefix) if prefix else self.root
        if not base.is_dir():
            return []
        found = (p for p in base.rglob("*") if p.is_file() and not p.name.startswith(".tmp-") and not p.is_symlink())
        return sorted(str(p.relative_to(self.root)) for p in found)

    def delete_tree(self, prefix: str) -> None:
        with _storage_errors(f"cannot delete {prefix} in {self.root}"):
            path = self._path(prefix)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def local(self, name: str) -> Path:
        path = self._path(name)
        if not path.is_file():
            msg = f"no such object: {path}"
            raise StorageError(msg)
        return path


@contextmanager
def _storage_errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        msg = f"{what}: {error.strerror or error}"
        raise StorageError(msg) from error


class S3Store(Store):
    """A store under s3://bucket/prefix. Endpoint, region and credentials come from the environment (AWS_*)."""

    def __init__(self, bucket: str, prefix: str, cache: Path):
        from boto3.session import Session
        from botocore.config import Config

        self.bucket, self.prefix, self.cache = bucket, prefix.strip("/"), cache
        self.uri = f"s3://{bucket}/{self.prefix}".rstrip("/")
        self._s3: Any = Session().client(
            "s3", config=Config(retries={"mode": "standard", "max_attempts": 5}, connect_timeout=10, read_timeout=60)
        )

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{check_name(name)}" if self.prefix else check_name(name)

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            msg = f"cannot {what} in {self.uri}: {error}. {_S3_REMEDIES.get(code, '')}".rstrip()
            raise StorageError(msg) from error
        except (BotoCoreError, Boto3Error) as error:
            msg = f"cannot {what} in {self.uri}: {error}. Check AWS_ENDPOINT_URL, the network and the credentials."
            raise StorageError(msg) from error

    def size(self, name: str) -> int | None:
        from botocore.exceptions import ClientError

        with self._errors(f"look at {name}"):
            try:
                return int(self._s3.head_object(Bucket=self.bucket, Key=self._key(name))["ContentLength"])
            except ClientError as error:
                if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
                    return None
                raise

    def read(self, name: str) -> bytes:
        with self._errors(f"read {name}"):
            return self._s3.get_object(Bucket=self.bucket, Key=self._key(name))["Body"].read()

    def put(self, name: str, data: bytes | Path) -> None:
        with self._errors(f"write {name}"):
            if isinstance(data, bytes):
                self._s3.put_object(Bucket=self.bucket, Key=self._key(name), Body=data, ChecksumAlgorithm="SHA256")
            else:  # in several parts where it is large, each with its checksum
                extra = {"ChecksumAlgorithm": "SHA256"}
                self._s3.upload_file(str(data), self.bucket, self._key(name), ExtraArgs=extra)

    def create(self, name: str, data: bytes) -> bool:
        from botocore.exceptions import ClientError

        with self._errors(f"create {name}"):
            try:
                self._s3.put_object(Bucket=self.bucket, Key=self._key(name), Body=data, IfNoneMatch="*")
            except ClientError as error:
                # 412: the object exists; 409: another conditional put of it is under way
                if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (409, 412):
                    return False
                raise
        return True

    def copy(self, source: str, target: str) -> None:
        with self._errors(f"copy {source} to {target}"):
            self._s3.copy({"Bucket": self.bucket, "Key": self._key(source)}, self.bucket, self._key(target))

    def names(self, prefix: str) -> list[str]:
        base = self._key(prefix) + "/" if prefix else (f"{self.prefix}/" if self.prefix else "")
        cut = len(self.prefix) + 1 if self.prefix else 0
        found: list[str] = []
        with self._errors(f"list {prefix or '/'}"):
            for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=base):
                found += [item["Key"][cut:] for item in page.get("Contents", [])]
        return sorted(found)

    def delete_tree(self, prefix: str) -> None:
        names = self.names(prefix)
        with self._errors(f"delete {prefix}"):
            for name in [*names, prefix]:
                self._s3.delete_object(Bucket=self.bucket, Key=self._key(name))

    def local(self, name: str) -> Path:
        path = self.cache / self.bucket / self._key(name)
        with self._errors(f"fetch {name}"):
            head = self._s3.head_object(Bucket=self.bucket, Key=self._key(name))
            changed = head["LastModified"].timestamp()  # the cached copy carries the object's own time
            cached = path.stat() if path.is_file() else None
            if cached is None or (cached.st_size, cached.st_mtime) != (head["ContentLength"], changed):
                private_folder(self.cache)
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
                self._s3.download_file(self.bucket, self._key(name), str(temporary))
                os.utime(temporary, (changed, changed))
                temporary.replace(path)
        return path


_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
# Source: Amazon S3 user guide, "General purpose bucket naming rules".

_S3_REMEDIES = {
    "NoSuchBucket": "Create the bucket, or correct store.uri.",
    "InvalidAccessKeyId": "Correct AWS_ACCESS_KEY_ID.",
    "SignatureDoesNotMatch": "Correct AWS_SECRET_ACCESS_KEY.",
    "AccessDenied": "Give these credentials read, write, list and delete on the prefix.",
    "RequestTimeTooSkewed": "Set this machine's clock.",
}


@lru_cache(maxsize=8)
def open_store(uri: str, cache: Path = Path(".pairmill/cache")) -> Store:
    """The store at `uri`: a folder, or s3://bucket/prefix whose objects are cached under `cache` where a file is needed.

    Raises: ConfigError when the address is neither.
    """
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        if not _BUCKET.fullmatch(parts.netloc) or ".." in uri or parts.query or parts.fragment:
            msg = f"store.uri {uri!r} names no bucket and plain prefix; write s3://bucket/prefix"
            raise ConfigError(msg)
        return S3Store(parts.netloc, parts.path, cache)
    if parts.scheme not in ("", "file") or not uri.strip():
        msg = f"store.uri {uri!r} is neither a folder nor s3://bucket/prefix"
        raise ConfigError(msg)
    return FolderStore(Path(parts.path if parts.scheme == "file" else uri))
