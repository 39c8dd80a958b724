"""Read a list of values, one line at a time, from a file, an https address or an object in S3; name it as an input."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from dataops.errors import ConfigError, SourceError, explain_unreadable
from dataops.redaction import redact
from dataops.regular_files import open_regular
from dataops.snapshot import Input
from tasks.files.base import OpenFile
from tasks.files.http_file import HttpFile
from tasks.files.resumable import ResumableStream, RetryLimit
from tasks.files.s3_file import connect_s3, split_s3
from tasks.web.request import format_user_agent

HASH_LIST, OPT_OUT_LIST = "hash_list", "opt_out_list"
"""Stages of inputs that are lists."""


def list_input(stage: str, name: str, digest: str) -> Input:
    """Return a list as an input: by its name and the digest of its entries."""
    return Input(stage=stage, key=name, digest=digest)


def select_lists(inputs: Iterable[Input], stage: str) -> dict[str, str]:
    """Return the digests of the lists among the inputs of a snapshot, by name."""
    return {one.key: one.digest for one in inputs if one.stage == stage}


MAX_LINE_BYTES = 16_384
MAX_BYTES = 8 << 30
"""Maximum size of a list: a server may answer without end."""
_READ_BYTES = 1 << 20
_COMMENT = re.compile(r"\s#")
_TIMEOUT, _RETRIES = 30.0, RetryLimit(max_wait=60)
_REMOTE = ("https://", "http://", "s3://")


def check_location(location: str) -> str:
    """Return the path, address or S3 URI of a list. Raises: ValueError if it is an address that cannot be trusted."""
    if location.startswith("http://") and not _is_loopback(urlsplit(location).hostname or ""):
        raise ValueError(
            f"{redact(location)}: whoever is on the way could change the list; write https://, or a path or s3:// URI"
        )
    if not location or ("://" in location and not location.startswith(_REMOTE)):
        raise ValueError(f"{redact(location)!r} is no path, no https:// address and no s3:// URI")
    return location


Lists = dict[
    Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")], Annotated[str, AfterValidator(check_location)]
]
"""The location of each list by its name, which rows, alerts and manifests have."""


def is_remote(location: str) -> bool:
    """Return whether a list is not a file of this machine."""
    return location.startswith(_REMOTE)


def read_values(location: str, columns: Sequence[str], parse: Callable[[str], object]) -> Iterator[object]:
    """Yield the parsed value of each line of a list.

    A line has one value. Empty lines and what follows a # after white space are ignored. A list whose name ends in .csv
    may begin with a header that has one of `columns`; without a header, its first field is the value.

    Args:
        parse: returns the value of a text. Raises: ValueError, whose text states what is allowed.

    Raises: ConfigError with the location, the line and what to do, also for an empty list; SourceError if the list cannot
        be read.
    """
    name, count = redact(location), 0
    is_csv = location.partition("?")[0].lower().endswith(".csv")
    column: int | None = None
    with _unreadable(location), _open(location) as file:
        for number, line in _read_lines(file, name):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            if is_csv:
                fields = _split_fields(text, f"{name} line {number}")
                if column is None:
                    found = [at for at, field in enumerate(fields) if field.lower() in columns]
                    column = found[0] if found else 0
                    if found:
                        continue
                text = fields[column] if column < len(fields) else ""
            elif "#" in text:  # a URL may hold one
                text = _COMMENT.split(text, maxsplit=1)[0]
            try:
                value = parse(text)
            except ValueError as error:
                raise ConfigError(f"{name} line {number}: {error}") from error
            count += 1
            yield value
    if not count:
        raise ConfigError(f"{name} has no entry; check its address, or remove it from the config")


def _split_fields(line: str, where: str) -> list[str]:
    try:
        return [field.strip() for field in next(csv.reader([line]))]
    except csv.Error as error:
        raise ConfigError(f"{where}: not CSV ({error}); write one row a line") from error


def _open(location: str) -> OpenFile:
    if location.startswith("s3://"):
        bucket, key = split_s3(location)
        return ResumableStream(location, lambda offset: connect_s3(bucket, key, offset, None), _RETRIES)
    if is_remote(location):
        connect = HttpFile(location, format_user_agent("pairmill", None), _TIMEOUT).connect
        return ResumableStream(redact(location), connect, _RETRIES)
    return open_regular(location)


@contextmanager
def _unreadable(location: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ConfigError(f"{location} is not a file; correct the path of the list") from error
    except OSError as error:
        raise explain_unreadable(location, error) from error


def _read_lines(file: OpenFile, name: str) -> Iterator[tuple[int, str]]:
    rest, number, size = b"", 0, 0
    while data := file.read(_READ_BYTES):
        size += len(data)
        if size > MAX_BYTES:
            raise SourceError(f"{name}: larger than {MAX_BYTES:,} bytes", retryable=False)
        *lines, rest = (rest + data).split(b"\n")
        for line in (*lines, rest[: MAX_LINE_BYTES + 1]) if len(rest) > MAX_LINE_BYTES else lines:
            number += 1
            yield number, _decode(line, number, name)
    if rest:
        yield number + 1, _decode(rest, number + 1, name)


def _decode(line: bytes, number: int, name: str) -> str:
    if len(line) > MAX_LINE_BYTES:
        raise ConfigError(f"{name} line {number}: longer than {MAX_LINE_BYTES:,} bytes; write one value a line")
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} line {number}: not UTF-8; save the list as UTF-8 text") from error


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
