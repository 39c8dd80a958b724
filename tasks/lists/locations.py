"""Read a list of values, one line at a time, from a file, an https address or an object in S3; name it as an input."""

import csv
import logging
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from ipaddress import ip_address
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from dataops.config import PATH
from dataops.errors import ConfigError, SourceError, explain_unreadable
from dataops.reasons import Reason
from dataops.redaction import redact
from dataops.regular_files import open_regular
from dataops.rights.signals import PADDING, normalise_key
from dataops.snapshot import Input
from tasks.files.base import OpenFile
from tasks.files.http_file import HttpFile
from tasks.files.resumable import ResumableStream, RetryLimit
from tasks.files.s3_file import connect_s3, split_s3
from tasks.web.request import format_user_agent

logger = logging.getLogger(__name__)

HASH_LIST, OPT_OUT_LIST = "hash_list", Reason.OPT_OUT_LIST
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
MAX_SECONDS = 900.0
"""Maximum time for a list: a server may send a byte a second."""
_COMMENT = re.compile(r"(?:^|\s)#.*")
_DELIMITER = re.compile("[,;|]")
_CLEAR = re.compile(r"[^:]*:.*|[0-9a-fA-F]{32,}")
# Dates, times, numbers and counts beside a value, which say nothing on what it names.
_DATE = re.compile(r"[-+]?[0-9][0-9:./+-]{0,29}(?:T[0-9:.+-]{1,29})?(?:Z|UTC|GMT)?", re.IGNORECASE)
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
    Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")], Annotated[str, *PATH, AfterValidator(check_location)]
]
"""The location of each list by its name, which rows, alerts and manifests have."""


def is_remote(location: str) -> bool:
    """Return whether a list is not a file of this machine."""
    return location.startswith(_REMOTE)


def read_values(
    location: str, columns: Collection[str], parse: Callable[[str], object], *, seconds: float = MAX_SECONDS
) -> Iterator[object]:
    """Yield the parsed values of each line of a list.

    A line has a value, or several that are separated by tabs, commas, semicolons or white space;
    dates beside a value are ignored. Lines end with LF, CR or both. Empty lines and what follows a
    # after white space are ignored. A list may begin with a header that has some of `columns`: then
    all cells of these columns are values; others are ignored, and named in the log.

    Args:
        columns: names of columns, as `normalise_key` returns them; in a mapping, with what precedes their values.
        parse: returns the value of a text. Raises: ValueError, whose text states what is allowed.
        seconds: maximum time for the list.

    Raises: ConfigError with the location, the line and what to do for a line that is not understood as a whole, and for an
        empty list; SourceError if the list cannot be read, or may not be whole.
    """
    name, count = redact(location), 0
    header: _Header | None = None
    with _unreadable(location), _open(location) as file:
        for number, line in _read_lines(file, name, time.monotonic() + seconds):
            text = _COMMENT.sub("", line).strip()
            if not text:
                continue
            if not count and header is None and (header := _find_header(text, columns)):
                if header.others:
                    _name_ignored(name, header.others)
                continue
            try:
                values = _parse_row(text, header, parse) if header else _parse_line(text, parse)
            except (ValueError, csv.Error) as error:
                raise ConfigError(f"{name} line {number}: {error}") from error
            count += len(values)
            yield from values
    if not count:
        raise ConfigError(f"{name} has no entry; check its address, or remove it from the config")


class _Header(NamedTuple):
    delimiter: str
    columns: list[tuple[int, str]]
    """The number of each known column, and what precedes its values."""
    width: int
    others: tuple[str, ...]


def _find_header(line: str, columns: Collection[str]) -> _Header | None:
    prefixes = columns if isinstance(columns, Mapping) else dict.fromkeys(columns, "")
    for delimiter in ",;\t|":
        names = [normalise_key(field) for field in line.split(delimiter)]
        if found := [(at, prefixes[one]) for at, one in enumerate(names) if one in columns]:
            return _Header(delimiter, found, len(names), tuple(one for one in names if one not in columns))
    return None


@cache
def _name_ignored(name: str, columns: tuple[str, ...]) -> None:
    logger.warning("%s: these columns are not read: %s", name, ", ".join(columns))


def _parse_row(line: str, header: _Header, parse: Callable[[str], object]) -> list[object]:
    """Return the values of the known columns. Raises: ValueError, also for a row without any."""
    if header.width == 1:
        return _parse_line(line, _prefix(header.columns[0][1], parse))
    fields = [field.strip() for field in next(csv.reader([line], delimiter=header.delimiter, strict=True))]
    texts = [(fields[at], prefix) for at, prefix in header.columns if at < len(fields) and fields[at]]
    if not texts or len(fields) > header.width:
        raise ValueError(
            f"{len(fields)} fields, {len(texts)} with a value, below a header of {header.width}; quote commas"
        )
    return [value for text, prefix in texts for value in _parse_line(text, _prefix(prefix, parse))]


def _prefix(prefix: str, parse: Callable[[str], object]) -> Callable[[str], object]:
    return (lambda text: parse(prefix + text.lower().removeprefix(prefix))) if prefix else parse


def _parse_line(text: str, parse: Callable[[str], object]) -> list[object]:
    """Return the values of a text. Raises: ValueError if a word is neither a value nor a date."""
    first, *more = [field for one in text.split() if (field := one.strip(PADDING + ",;|"))] or [""]
    values = _parse_field(first, parse)
    for field in more:
        if _DATE.fullmatch(field):
            continue
        if ":" in first and not _CLEAR.fullmatch(field):  # the rest of a URL with a space may look like a domain
            raise ValueError(
                f"{field[:80]!r} is neither a value nor a date; write one value a line, and %20 for a space"
            )
        values += _parse_field(field, parse)
    return values


def _parse_field(text: str, parse: Callable[[str], object]) -> list[object]:
    """Return the values of a text without white space: of a URL with commas, itself and what it may list."""
    parts = [part for one in _DELIMITER.split(text) if (part := one.strip(PADDING))] or [""]
    listed = [part for number, part in enumerate(parts) if not number or not _DATE.fullmatch(part)]
    if len(parts) == 1:
        return [parse(parts[0])]
    try:
        whole = [parse(text)]
    except ValueError:
        return list(map(parse, listed))
    with suppress(ValueError):
        return [*whole, *map(parse, listed)]
    return whole


def _open(location: str) -> OpenFile:
    if location.startswith("s3://"):
        bucket, key = split_s3(location)
        return ResumableStream(location, lambda offset: connect_s3(bucket, key, offset, None), _RETRIES)
    if is_remote(location):
        connect = HttpFile(location, format_user_agent("pairmill", None), _TIMEOUT, needs_length=True).connect
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


def _read_lines(file: OpenFile, name: str, deadline: float) -> Iterator[tuple[int, str]]:
    rest, number, size = b"", 0, 0
    while data := file.read(1 << 20):
        size += len(data)
        if size > MAX_BYTES:
            raise SourceError(f"{name}: larger than {MAX_BYTES:,} bytes", retryable=False)
        if time.monotonic() > deadline:
            raise SourceError(f"{name}: not whole in time, after {size:,} bytes; check the server")
        data = rest + data
        held = b"\r" if data.endswith(b"\r") else b""  # its line end may go on
        *lines, rest = data.removesuffix(held).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in (*lines, rest[: MAX_LINE_BYTES + 1]) if len(rest) > MAX_LINE_BYTES else lines:
            number += 1
            yield number, _decode(line, number, name)
        rest += held
    for line in rest.rstrip(b"\r").split(b"\r") if rest else ():
        number += 1
        yield number, _decode(line, number, name)


def _decode(line: bytes, number: int, name: str) -> str:
    if len(line) > MAX_LINE_BYTES:
        raise ConfigError(f"{name} line {number}: longer than {MAX_LINE_BYTES:,} bytes; write one value a line")
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} line {number}: not UTF-8; save the list as UTF-8 text, not compressed") from error


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
