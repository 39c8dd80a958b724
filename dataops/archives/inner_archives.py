"""Finds archives that are the content of a record, whose own records do not belong to the file.

A crawl may fetch archives. Where their record is damaged, the search for the next record must skip them.
"""

import re

from dataops.archives.compression import MAGICS

MAX_HEAD = 1 << 16
"""Maximum size of a record's head, in bytes."""
LENGTH = re.compile(rb"\ncontent-length:[ \t]*(\d{1,20})[ \t]*\r?(?:\n|\Z)", re.IGNORECASE)
_FIELD = re.compile(rb"[A-Za-z0-9_.-]+[ \t]*:|[ \t]|\Z")
_ARCHIVE_TYPE = re.compile(rb"\ncontent-type:[ \t]*application/(?:x-)?(?:warc|arc|gzip)\b(?!-fields)", re.IGNORECASE)


def split_head(data: bytes, at: int) -> tuple[int, int] | None:
    """Return the end of the head at a position and the start of the content; None if the head is longer than MAX_HEAD."""
    limit = at + MAX_HEAD
    end = data.find(b"\n\r\n", at, limit)
    bare = data.find(b"\n\n", at, end if end >= 0 else limit)
    if bare >= 0:
        return bare, bare + 2
    if end < 0:
        return None
    return end - (data[end - 1 : end] == b"\r"), end + 3


def inner_archive(data: bytes, at: int, *, in_compressed: bool) -> tuple[int, int]:
    """Return the start of the content of the record at a position and the length of the archive in it, (0, 0) if none.

    Args:
        in_compressed: whether the archive is searched for in compressed bytes, where only one that is compressed itself
            can be found. It does not shrink when it is compressed again, so it takes at least its own length.
    """
    at += len(data[at : at + MAX_HEAD]) - len(data[at : at + MAX_HEAD].lstrip())
    split = split_head(data, at)
    # A damaged end of the head makes the lines of the content part of it, and the next record its content.
    if split is None or not all(map(_FIELD.match, data[at : split[0]].split(b"\n")[1:])):
        return 0, 0
    content = split[1]
    if data.startswith(b"HTTP/", content):
        split = split_head(data, content)
        content = split[1] if split else content
    heads = data[at:content]
    known = data.startswith(MAGICS, content)
    if not in_compressed:
        known = known or data.startswith(b"WARC/", content) or _ARCHIVE_TYPE.search(heads) is not None
    lengths = LENGTH.findall(heads)  # the last one is that of the response
    return (content, int(lengths[-1])) if known and lengths else (0, 0)
