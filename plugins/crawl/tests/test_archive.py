"""What the archive of a crawl keeps of requests."""

from warcio.archiveiterator import ArchiveIterator

from plugins.crawl.archive import Archive, Capture


def test_signatures_of_requests_are_not_archived(tmp_path):
    sent = [("Signature-Agent", "agent"), ("Signature-Input", "sig1=x;nonce=y"), ("SIGNATURE", "sig1=:planted:")]
    archive = Archive(tmp_path / "a.warc.gz", 0)
    answer = (200, "HTTP/1.1", [("Content-Type", "text/html")], b"<p>a", None, "2026-01-02T03:04:05Z")
    archive.add(Capture("https://a.test/", [*sent, ("Accept", "text/html")], *answer))
    archive.close()
    with (tmp_path / "a.warc.gz").open("rb") as file:
        (request,) = (record.http_headers for record in ArchiveIterator(file) if record.rec_type == "request")
    assert request.headers[1:] == [
        ("Signature-Agent", "agent"), ("Signature-Input", "***"), ("SIGNATURE", "***"), ("Accept", "text/html"),
    ]  # fmt: skip
