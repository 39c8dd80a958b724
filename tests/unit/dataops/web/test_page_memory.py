"""Pages of 50 MB, parsed in a subprocess whose peak memory, without the libraries', stays below 400 MB."""

import json

from tests.python_code import run_python

READ = """
import json, pathlib, sys
from dataops.web.charsets import convert_to_utf8
from dataops.web.markup import BadPage
from dataops.web.page_pairs import PageBounds
from dataops.web.pages import extract_page_pairs
from dataops.archives.warc import read_pages

found = []
for page in read_pages(pathlib.Path(sys.argv[1]), 50_000_000, lambda what: None):
    try:
        found_page = extract_page_pairs(convert_to_utf8(page.body, page.charset)[0], page.url, PageBounds(200, 300))
        found.append([len(found_page.pairs), found_page.surplus_images])
    except BadPage as bad:
        found.append(bad.reason)
status = pathlib.Path("/proc/self/status").read_text()  # ru_maxrss is that of the test process, which forked this one
peak, libraries = (int(status.partition(f"{name}:")[2].split()[0]) * 1024 for name in ("VmHWM", "RssFile"))
print(json.dumps([found, peak - libraries]))  # how much of a library is resident is up to the kernel
"""
SIZE = 49_000_000
IMAGE = b'<img src="/images/000000.jpg" alt="a picture">'
PAGES = {
    "nothing but images": (IMAGE * (SIZE // len(IMAGE)), "too_complex"),
    "as many images as the limit allows": (IMAGE * 80_000 + "ж🪁 ".encode() * 6_000_000, [20_000, 60_000]),
    "nothing but attributes": (b"<img src=a>" + b"<i a b c d e f g h></i>" * (SIZE // 23), "too_complex"),
}


def test_extract_page_pairs_uses_less_than_400_mb_for_dense_pages_of_50_mb(tmp_path):
    path = tmp_path / "dense.warc"
    with path.open("wb") as file:
        for page, _ in PAGES.values():
            response = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + page
            head = "WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a.example/\r\nContent-Length: "
            file.write(f"{head}{len(response)}\r\n\r\n".encode() + response + b"\r\n\r\n")
    found, peak = json.loads(run_python(READ, path).stdout)
    assert found == [expected for _, expected in PAGES.values()]
    assert peak < 400_000_000
