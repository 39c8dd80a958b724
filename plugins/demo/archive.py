"""Fetch the pages of the demo's site over HTTP, and write them as WARC files, as a crawler does.

Each file begins with a `warcinfo` record; each page is a `response` record with its `request`. The bytes, and so the keys
of the snapshots made from them, depend on the site alone: all dates, also in Date headers, are `CRAWL_DATE`, and record
ids are derived from type and URL (uuid5).

Source: ISO 28500:2017 (WARC 1.1 keeps 1.0's records; 1.0 is written, as Common Crawl does).
"""

import http.client
import io
import uuid
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

from warcio.recordbuilder import RecordBuilder
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from dataops.errors import SourceError
from plugins.demo.pages import BASE_URL, HOST
from plugins.demo.server import running_server

CRAWL_DATE = "2026-01-01T00:00:00Z"
HTTP_DATE = "Thu, 01 Jan 2026 00:00:00 GMT"
USER_AGENT = "pairmill-demo-crawler/1 (+http://openmoji.pairmill.test/)"


def archive_site(site: Path, paths: Sequence[str], directory: Path, files: int = 4) -> list[Path]:
    """Fetch pages from a server on loopback, and write `demo-00000.warc.gz` and so on.

    Args:
        site: folder of the site, which is served meanwhile.
        paths: paths to fetch; they are distributed over the files in order, in runs of equal length.
        directory: folder of the files; created if absent.
        files: number of WARC files, fewer if there are fewer paths.

    Raises: SourceError if the server does not answer with status 200.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files = max(1, min(files, len(paths)))
    written = []
    with running_server(site) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)  # noqa: TID251  asks the demo's site on 127.0.0.1
        for number in range(files):
            start, end = (len(paths) * n // files for n in (number, number + 1))
            file = directory / f"demo-{number:05d}.warc.gz"
            with file.open("wb") as out:
                _write_warc(out, file.name, connection, paths[start:end])
            written.append(file)
        connection.close()
    return written


def page_url(path: str) -> str:
    """Return the URL under which a page is archived; that of an index.html is its folder."""
    return f"{BASE_URL}{path.removesuffix('index.html') if path.endswith('/index.html') else path}"


def _write_warc(out: BinaryIO, name: str, connection: http.client.HTTPConnection, paths: Sequence[str]) -> None:  # noqa: TID251  asks the demo's site on 127.0.0.1
    writer = WARCWriter(out, gzip=True)
    _write(writer, "warcinfo", None, name, io.BytesIO(_warcinfo()), {"WARC-Filename": name})
    for path in paths:
        url = page_url(path)
        request, response, body = _fetch(connection, url)
        response_id = _record_id("response", url)
        _write(writer, "response", url, url, io.BytesIO(body), {"WARC-IP-Address": "127.0.0.1"}, response)
        _write(writer, "request", url, url, io.BytesIO(), {"WARC-Concurrent-To": response_id}, request)


def _write(
    writer: WARCWriter,
    kind: str,
    url: str | None,
    name: str,
    payload: io.BytesIO,
    more: dict[str, str],
    http_headers: StatusAndHeaders | None = None,
) -> None:
    headers = {"WARC-Type": kind, "WARC-Record-ID": _record_id(kind, name), "WARC-Date": CRAWL_DATE, **more}
    builder: Any = RecordBuilder()
    record = builder.create_warc_record(
        url,
        kind,
        payload=payload,
        length=payload.getbuffer().nbytes,
        warc_headers_dict=headers,
        http_headers=http_headers,
    )
    writer.write_record(record)


def _fetch(connection: http.client.HTTPConnection, url: str) -> tuple[StatusAndHeaders, StatusAndHeaders, bytes]:  # noqa: TID251  asks the demo's site on 127.0.0.1
    path = url.removeprefix(BASE_URL)
    sent = [("Host", HOST), ("User-Agent", USER_AGENT), ("Accept", "text/html"), ("Accept-Encoding", "identity")]
    connection.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
    for header in sent:
        connection.putheader(*header)
    connection.endheaders()
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise SourceError(f"{url}: the demo's server answered with status {response.status}, not 200")
    headers = [(name, HTTP_DATE if name == "Date" else value) for name, value in response.getheaders()]
    return (
        StatusAndHeaders(f"GET {path} HTTP/1.1", sent, is_http_request=True),
        StatusAndHeaders(f"{response.status} {response.reason}", headers, protocol="HTTP/1.1"),
        body,
    )


def _warcinfo() -> bytes:
    fields = {
        "software": f"{USER_AGENT.split()[0]} warcio/{version('warcio')}",
        "format": "WARC File Format 1.0",
        "conformsTo": "http://bibnum.bnf.fr/WARC/WARC_ISO_28500_version1_latestdraft.pdf",
        "description": "The demo's own site; dates and record ids are fixed so that the bytes are the same every time",
    }
    return "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode()


def _record_id(kind: str, name: str) -> str:
    return f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{kind}:{name}')}>"
