"""Find files in S3 buckets by globs, and read them by ranges.

Endpoint, region and credentials come from the environment.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from dataops.digest import text_sha256
from dataops.errors import SourceError, UnusableSource
from tasks.files.base import SourceFile
from tasks.files.resumable import Connection, ConnectionBroken, ResumableStream, RetryLimit, mark_reached

_MAGIC = re.compile(r"[*?\[]")
RETRY_LIMIT = RetryLimit(max_wait=600)


@dataclass(frozen=True)
class S3File(SourceFile):
    """An object, identified by its ETag and size."""

    name: str
    bucket: str
    key: str
    etag: str
    size: int

    def digest(self) -> str:
        return text_sha256(f"{self.etag} {self.size}")

    def stored_bytes(self) -> int | None:
        return self.size

    def open(self) -> ResumableStream:
        uri = f"s3://{self.bucket}/{self.key}"
        return ResumableStream(uri, lambda offset: connect_s3(self.bucket, self.key, offset, self.etag), RETRY_LIMIT)


def find_s3_files(pattern: str) -> list[tuple[str, S3File]]:
    """Return (URI, file) of the objects that the glob `s3://bucket/key` matches, sorted by URI.

    Raises: SourceError if the bucket cannot be listed.
    """
    bucket, key = split_s3(pattern)
    magic = _MAGIC.search(key)
    fixed = key[: magic.start()] if magic else key
    folder = fixed.rpartition("/")[0] + "/" if "/" in fixed else ""
    matches = re.compile(glob_to_regex(key)).fullmatch
    found: list[tuple[str, S3File]] = []
    with translate_s3_errors(pattern):
        for page in s3_client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=fixed):
            for item in page.get("Contents", []):
                if matches(item["Key"]) and not item["Key"].endswith("/"):
                    name = item["Key"][len(folder) :]
                    file = S3File(name, bucket, item["Key"], item["ETag"], int(item["Size"]))
                    found.append((f"s3://{bucket}/{item['Key']}", file))
    return sorted(found, key=lambda item: item[0])


def split_s3(uri: str) -> tuple[str, str]:
    """Return the bucket and the key of s3://bucket/key."""
    parts = urlsplit(uri, allow_fragments=False)
    return parts.netloc, (parts.path + (f"?{parts.query}" if parts.query else "")).lstrip("/")


_GLOB = re.compile(r"\*\*/|\*\*|\*|\?|\[!?[^\]]+\]|[^*?\[]+|\[")


def glob_to_regex(pattern: str) -> str:
    """Translate a glob into a regular expression: `*`, `?` and `[...]` match within a folder, `**` at any depth."""

    def translate(token: str) -> str:
        if token.startswith("[") and len(token) > 1:
            return (
                "(?!/)["
                + ("^" if token[1] == "!" else "")
                + re.escape(token[1:-1].removeprefix("!")).replace(r"\-", "-")
                + "]"
            )
        return {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(token) or re.escape(token)

    return "".join(translate(token) for token in _GLOB.findall(pattern))


def connect_s3(bucket: str, key: str, offset: int, etag: str | None) -> Connection:
    """Open an object at a byte, if it still has the ETag. Raises: ConnectionBroken, SourceError."""
    condition = {"IfMatch": etag} if etag else {}
    with translate_s3_errors(f"s3://{bucket}/{key}", broken=True):
        answer = s3_client().get_object(Bucket=bucket, Key=key, Range=f"bytes={offset}-", **condition)
    mark_reached(s3_client().meta.endpoint_url)
    total = answer.get("ContentRange", "").rpartition("/")[2]
    return _S3Connection(answer["Body"], int(total) if total.isdigit() else None)


class _S3Connection:
    def __init__(self, body: Any, size: int | None):
        self.size, self._body = size, body

    def read(self, size: int, /) -> bytes:
        from botocore.exceptions import BotoCoreError
        from urllib3.exceptions import HTTPError

        try:
            return self._body.read(size)
        except (BotoCoreError, HTTPError, OSError) as error:
            raise ConnectionBroken(str(error)) from error

    def close(self) -> None:
        self._body.close()


@contextmanager
def translate_s3_errors(uri: str, *, broken: bool = False) -> Iterator[None]:
    """Translate S3's errors into SourceError; with `broken`, those that a retry may solve into ConnectionBroken."""
    from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError

    from dataops.storage.s3_requests import CHANGED, MISSING, REFUSED, error_code  # loads boto3, in half a second

    try:
        yield
    except ClientError as error:
        code = error_code(error)
        if code in CHANGED:
            raise SourceError(f"{uri} changed while it was read; start a new run") from error
        remedy = "; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and their permissions" if code in REFUSED else ""
        if broken and code not in MISSING | REFUSED:
            raise ConnectionBroken(f"{uri}: {error}") from error
        kind = UnusableSource if code in MISSING | REFUSED else SourceError
        raise kind(f"{uri}: {error}{remedy}") from error
    except BotoCoreError as error:
        if broken:
            host = s3_client().meta.endpoint_url if isinstance(error, EndpointConnectionError) else None
            raise ConnectionBroken(f"{uri}: {error}", unreachable=host) from error
        raise SourceError(f"{uri}: {error}; check AWS_ENDPOINT_URL, the network and the credentials") from error


@lru_cache(maxsize=1)
def s3_client() -> Any:
    """Return the S3 client of this process."""
    from boto3.session import Session
    from botocore.config import Config

    retries = {"mode": "standard", "max_attempts": 5}
    return Session().client("s3", config=Config(retries=retries, connect_timeout=10, read_timeout=60))
