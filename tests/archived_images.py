"""Builds WARC files with images, redirects, revisits and damages."""

import gzip

import lz4.frame

from dataops.archives.members import zstd

DATE = "2026-01-02T03:04:05Z"


def http(body, status="200 OK", **headers):
    """Return an HTTP response."""
    fields = {"Content_Type": "image/png", "Content_Length": str(len(body))} | headers
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items() if value]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1") + body


def record(url, content, kind="response", date=DATE, **fields):
    """Return a WARC record."""
    named = {
        "WARC_Type": kind,
        "WARC_Target_URI": url,
        "WARC_Date": date,
        **fields,
        "Content_Length": str(len(content)),
    }
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in named.items()]
    return "\r\n".join(["WARC/1.0", *lines, "", ""]).encode() + content + b"\r\n\r\n"


def redirect(url, target, status="301 Moved", date=DATE):
    """Return the record of a redirect."""
    return record(url, http(b"", status, Location=target), date=date)


def write_archive(path, records):
    """Write records in the form that the name has: a gzip, zstd or lz4 member a record, one gzip member, or plain."""
    if path.name.endswith(".one.warc.gz"):
        path.write_bytes(gzip.compress(b"".join(records)))
    elif path.suffix == ".gz":
        path.write_bytes(b"".join(map(gzip.compress, records)))
    elif path.suffix == ".zst":
        path.write_bytes(b"".join(map(zstd.compress, records)))
    elif path.suffix == ".lz4":
        path.write_bytes(b"".join(map(lz4.frame.compress, records)))
    else:
        path.write_bytes(b"".join(records))
    return path
