"""Archives of other producers (see NOTICE), odd or malformed on purpose: their rows, damages and counts, in a golden file.

To make the golden file again: `python -m tests.unit.dataops.archives.test_real_archives`, and read the difference.
"""

import json
from collections import Counter
from pathlib import Path

import pytest

from dataops.archives.warc import Damage, read_pages
from dataops.errors import SourceError
from dataops.home import CHECKOUT
from dataops.web.page_pairs import PageBounds
from tasks.extract.sources.warc import extract_page

DATA = CHECKOUT / "tests" / "data" / "archives"
GOLDEN = CHECKOUT / "tests" / "golden" / "archives.json"
NAMES = sorted(path.name for path in DATA.iterdir())


def found_in(path: Path) -> dict[str, object]:
    counts: Counter[str] = Counter()
    pages, damages = [], []
    try:
        for found in read_pages(path, 1_000_000, lambda what: counts.update([what])):
            if isinstance(found, Damage):
                damages.append([found.offset, found.reason])
                continue
            url, pairs = extract_page(found, PageBounds(caption=100, url=300))
            rows = [[value for value in row] for row in pairs.pairs]
            pages.append({"url": url, "offset": found.offset, "language": pairs.language, "rows": rows})
    except SourceError as error:
        return {"error": str(error).removeprefix(f"{path}: ")}
    return {"counts": dict(sorted(counts.items())), "damages": damages, "pages": pages}


@pytest.mark.parametrize("name", NAMES)
def test_real_archives_give_the_rows_of_the_golden_file(name: str):
    assert found_in(DATA / name) == json.loads(GOLDEN.read_text())[name]


if __name__ == "__main__":
    found = {name: found_in(DATA / name) for name in NAMES}
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
