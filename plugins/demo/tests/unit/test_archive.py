from warcio.archiveiterator import ArchiveIterator

from plugins.demo.archive import CRAWL_DATE


def test_warcio_reads_each_page_of_the_site(web):
    records, pages = [], {}
    for file in web.warcs:
        with file.open("rb") as stream:
            for record in ArchiveIterator(stream, check_digests=True):
                headers = record.rec_headers
                records.append((record.rec_type, headers.get_header("WARC-Record-ID")))
                assert headers.get_header("WARC-Date") == CRAWL_DATE
                body = record.content_stream().read()
                assert record.digest_checker.passed
                if record.rec_type == "response":
                    assert record.http_headers.get_statuscode() == "200"
                    assert "Python" not in record.http_headers.get_header("Server")
                    pages[headers.get_header("WARC-Target-URI")] = body
                if record.rec_type == "request":
                    assert record.http_headers.get_header("Host") == web.host
    kinds = [kind for kind, _ in records]
    assert kinds.count("warcinfo") == len(web.warcs) == 4
    assert kinds.count("response") == kinds.count("request") == web.counts["pages"] + 1
    assert len({record_id for _, record_id in records}) == len(records)
    for url, body in pages.items():
        path = url.removeprefix(web.base_url)
        assert body == (web.site / (path + "index.html" if path.endswith("/") else path).lstrip("/")).read_bytes()
