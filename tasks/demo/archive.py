"""The archive of the demo's site: its pages fetched over HTTP and written as WARC, as a crawler leaves them.

Each file opens with a `warcinfo` record; each page is a `response` record with the `request` that asked for it. Two
things that a crawl would draw from clock and chance are fixed, so that the archive's bytes, and the keys of every snapshot
made from them, depend on the site alone: dates are `CRAWL_DATE`, and record ids are derived from type and address (uuid5).
For the same reason the answers' Date header says `CRAWL_DATE`.

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
from tasks.demo.pages import BASE_URL, HOST
from tasks.demo.server import running_server

CRAWL_DATE = "2026-01-01T00:00:00Z"
HTTP_DATE = "Thu, 01 Jan 2026 00:00:00 GMT"
USER_AGENT = "pairmill-demo-crawler/1 (+http://openmoji.pairmill.test/)"


def archive_site(site: Path, paths: Sequence[str], directory: Path, files: int = 4) -> list[Path]:
    """Fetches pages from a server on loopback and writes `demo-00000.warc.gz` and so on.

    Args:
        site: the site's folder, served while this runs.
        paths: what to fetch; they are spread over the files in order, in runs of equal length.
        directory: where the files go; made if absent.
        files: number of WARC files, fewer where there are fewer paths.

    Raises:
        SourceError: the server did not answer with status 200.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files = max(1, min(files, len(paths)))
    written = []
    with running_server(site) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        for number in range(files):
            start, end = (len(paths) * n // files for n in (number, number + 1))
            file = directory / f"demo-{number:05d}.warc.gz"
            with file.open("wb") as out:
                _write_warc(out, file.name, connection, paths[start:end])
            written.append(file)
        connection.close()
    return written


def page_url(path: str) -> str:
    """The address under which a page is archived: a folder's page is the folder's."""
    return f"{BASE_URL}{path.removesuffix('index.html') if path.endswith('/index.html') else path}"


def _write_warc(out: BinaryIO, name: str, connection: http.client.HTTPConnection, paths: Sequence[str]) -> None:
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


def _fetch(connection: http.client.HTTPConnection, url: str) -> tuple[StatusAndHeaders, StatusAndHeaders, bytes]:
    path = url.removeprefix(BASE_URL)
    asked = [("Host", HOST), ("User-Agent", USER_AGENT), ("Accept", "text/html"), ("Accept-Encoding", "identity")]
    connection.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
    for header in asked:
        connection.putheader(*header)
    connection.endheaders()
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise SourceError(f"{url}: the demo's server answered {response.status}, not 200")
    headers = [(name, HTTP_DATE if name == "Date" else value) for name, value in response.getheaders()]
    return (
        StatusAndHeaders(f"GET {path} HTTP/1.1", asked, is_http_request=True),
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
