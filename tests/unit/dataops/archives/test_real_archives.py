"""Unusual and malformed archives of other producers (see NOTICE) against a golden file of their rows, damages and counts.

`python -m tests.unit.dataops.archives.test_real_archives` writes the golden file; review its diff.
"""

import json
from collections import Counter

import pytest

from dataops.archives.warc import Damage, read_pages
from dataops.errors import SourceError
from dataops.home import CHECKOUT
from dataops.web.page_pairs import PageBounds
from tasks.extract.sources.warc import extract_page

DATA = CHECKOUT / "tests" / "data" / "archives"
GOLDEN = CHECKOUT / "tests" / "golden" / "archives.json"
NAMES = sorted(path.name for path in DATA.iterdir())


def read_archive(path):
    counts = Counter()
    pages, damages = [], []
    try:
        for found in read_pages(path, 1_000_000, lambda what: counts.update([what])):
            if isinstance(found, Damage):
                damages.append([found.offset, found.reason])
                continue
            url, extracted = extract_page(found, PageBounds(caption=100, url=300))
            rows = [list(row) for row in extracted.pairs]
            pages.append({"url": url, "offset": found.offset, "language": extracted.language, "rows": rows})
    except SourceError as error:
        return {"error": str(error).removeprefix(f"{path}: ")}
    return {"counts": dict(sorted(counts.items())), "damages": damages, "pages": pages}


@pytest.mark.parametrize("name", NAMES)
def test_read_pages_and_extract_page_equal_the_golden_file(name):
    assert read_archive(DATA / name) == json.loads(GOLDEN.read_text())[name]


if __name__ == "__main__":
    found = {name: read_archive(DATA / name) for name in NAMES}
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
