"""Test the pools that recipes filter."""

import io
import tarfile
from pathlib import Path

import polars as pl
import pytest

from benchmarks.recipes.pool import list_demo_pairs, unpack_shards
from dataops.errors import ConfigError


def test_a_share_of_the_captions_is_that_of_the_next_image_of_the_page() -> None:
    rows = [
        (f"page{page}", f"http://h/{page}-{n:02}", f"caption {page}-{n:02}") for page in range(20) for n in range(30)
    ]
    table = pl.DataFrame(rows, schema=["page_url", "url", "caption"], orient="row")
    right = list_demo_pairs(table, 0.0)
    assert right.rows() == sorted((url, caption) for _, url, caption in rows)
    found = list_demo_pairs(table.sample(fraction=1, shuffle=True, seed=0), 0.25)
    assert found.equals(list_demo_pairs(table, 0.25))
    wrong = [(url, caption) for url, caption in found.rows() if url[9:] != caption[8:]]
    assert 100 < len(wrong) < 200
    for url, caption in wrong:
        page, number = url[9:].split("-")
        assert caption == f"caption {page}-{int(number) + 1:02}"


def test_shards_of_a_folder_become_a_site_and_pairs(tmp_path: Path) -> None:
    members = {"a.jpg": b"one", "a.txt": "eins ü\n".encode(), "b.png": b"two", "c.txt": b"no image", "d.webp": b"three"}
    members |= {"d.txt": b"drei", "d.json": b"{}"}
    (tmp_path / "pool").mkdir()
    with tarfile.open(tmp_path / "pool" / "00000.tar", "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    found = unpack_shards(tmp_path / "pool", tmp_path / "site")
    assert found["caption"].to_list() == ["eins ü", "drei"]
    files = [tmp_path / "site" / url.partition(".test/")[2] for url in found["url"].to_list()]
    assert [path.read_bytes() for path in files] == [b"one", b"three"]
    with pytest.raises(ConfigError, match=r"no \.tar in it"):
        unpack_shards(tmp_path / "site", tmp_path / "other")
