"""Archives in each format, whose records the test knows, and damages of them."""

import gzip
import io
import json
import random
import struct
from typing import NamedTuple

import lz4.frame
from fastwarc.stream_io import ZstdWriter

from dataops.archives.members import zstd
from tests.wat_files import page_value

SIZES = (300, 3_000, 40_000, 120, 900, 15_000, 250, 600)
"""Sizes of the pages, in bytes."""


class Written(NamedTuple):
    """A record that was written."""

    start: int
    end: int
    url: str
    content: bytes
    """Of the page or of the JSON record."""


class Archive(NamedTuple):
    """An archive and its records in their order."""

    data: bytes
    records: list[Written]
    checksums: str
    """`each` if each record has a member of its own with a checksum, `one` for all records, or `none`."""


def html(number):
    """Return a page that hardly compresses, of a known size."""
    noise = random.Random(number).randbytes(SIZES[number % len(SIZES)] // 2).hex()
    return f"<html><title>{number}</title><img src={number}.jpg alt='number {number}'><!--{noise}--></html>".encode()


def url(number):
    return f"http://site.example/{number}"


def _record(number, kind, media, content):
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url(number)}\r\nContent-Type: {media}\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content + b"\r\n\r\n"


def warc_records(number=8):
    """Return (URL, content, bytes) of response records."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"
    records = [_record(i, "response", "application/http", head + html(i)) for i in range(number)]
    return [(url(i), html(i), records[i]) for i in range(number)]


def wat_records(number=8):
    """Return (URL, reference and alt of its image, bytes) of WAT records."""
    records = []
    for i in range(number):
        noise = random.Random(i).randbytes(SIZES[i % len(SIZES)] // 2).hex()
        links = [{"path": "IMG@/src", "url": f"{i}.jpg", "alt": f"number {i} {noise}"}]
        body = json.dumps(page_value(url(i), {"Links": links})).encode()
        records.append(
            (url(i), f"{i}.jpgnumber {i} {noise}".encode(), _record(i, "metadata", "application/json", body))
        )
    return records


def skippable(content, kind=0x5D):
    return bytes([kind, 0x2A, 0x4D, 0x18]) + struct.pack("<I", len(content)) + content


CHECKSUM = {int(zstd.CompressionParameter.checksum_flag): 1}


def dictionary():
    return zstd.train_dict([record for _, _, record in warc_records(100) if len(record) < 2000], 4000)


def fastwarc_zstd(record):
    """Return a frame of FastWARC's writer."""
    output = io.BytesIO()
    writer = ZstdWriter(output)
    writer.write(record)
    writer.close()
    return output.getvalue()


def _joined(compress, start=b"", end=b"", checksums="each"):
    def pack(records):
        data, written = start, []
        for address, content, record in records:
            packed = compress(record)
            written.append(Written(len(data), len(data) + len(packed), address, content))
            data += packed
        return Archive(data + end, written, checksums)

    return pack


def _whole(compress):
    def pack(records):
        data = compress(b"".join(record for _, _, record in records))
        return Archive(data, [Written(0, len(data), address, content) for address, content, _ in records], "one")

    return pack


def _zstd(record):
    return zstd.compress(record, options=CHECKSUM)


def _zstd_with_dictionary(record):
    return zstd.compress(record, options=CHECKSUM, zstd_dict=DICTIONARY)


DICTIONARY = dictionary()
FORMATS = {
    "gz": _joined(lambda record: gzip.compress(record, mtime=0)),
    "gz, one member": _whole(lambda data: gzip.compress(data, mtime=0)),
    "plain": _joined(bytes, checksums="none"),
    "zstd": _joined(_zstd),
    "zstd, FastWARC's": _joined(fastwarc_zstd, checksums="none"),
    "zstd, one frame": _whole(_zstd),
    "zstd, dictionary": _joined(_zstd_with_dictionary, skippable(DICTIONARY.dict_content)),
    "zstd, packed dictionary": _joined(_zstd_with_dictionary, skippable(_zstd(DICTIONARY.dict_content))),
    "zstd, skippable frames": _joined(
        lambda record: _zstd(record) + skippable(b"length", 0x50), skippable(b"x", 0x53), skippable(b"table", 0x5E)
    ),
    "lz4": _joined(lambda record: lz4.frame.compress(record, content_checksum=True)),
    "lz4, one frame": _whole(lambda data: lz4.frame.compress(data, content_checksum=True)),
}


class Broken(NamedTuple):
    """A damaged archive: the bytes from `start` to `end` of the undamaged one are not what they were."""

    name: str
    data: bytes
    start: int
    end: int


def damages(data, seed, flips, others):
    """Yield damages at random positions: flipped bits, cuts, inserted garbage, bytes that are removed or overwritten."""
    rng = random.Random(seed)
    for _ in range(flips):
        at, bit = rng.randrange(len(data)), rng.randrange(8)
        flipped = bytes([data[at] ^ (1 << bit)])
        yield Broken(f"bit {bit} of byte {at} flipped", data[:at] + flipped + data[at + 1 :], at, at + 1)
    for _ in range(others):
        at, size = rng.randrange(1, len(data)), int(10 ** rng.uniform(0, 4))
        garbage = rng.randbytes(size)
        end = min(len(data), at + size)
        yield Broken(f"cut at {at}", data[:at], at, len(data))
        yield Broken(f"{size} bytes inserted at {at}", data[:at] + garbage + data[at:], at, at)
        yield Broken(f"{size} bytes removed at {at}", data[:at] + data[end:], at, end)
        yield Broken(f"{size} bytes overwritten at {at}", data[:at] + garbage[: end - at] + data[end:], at, end)
        yield Broken(f"{size} bytes zeroed at {at}", data[:at] + bytes(end - at) + data[end:], at, end)
