"""A file of any format is searched for rows, images and texts of removed pairs, with bounded memory."""

import hashlib
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataops.shards.tar import ShardWriter
from plugins.erasure.scan import Scanner
from tasks.takedown.holders import Traces

IMAGE = b"an image" * 40
UID = "a" * 32
URL, CAPTION = "http://h.example/1.jpg", "a portrait of somebody in a garden"


@pytest.fixture
def traces():
    return Traces({UID}, {URL}, {CAPTION, "cat", "dog"}, {"dog"}, {hashlib.sha256(IMAGE).hexdigest(): len(IMAGE)})


@pytest.fixture
def scanner(traces):
    return Scanner(traces)


def parquet(**columns):
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, row_group_size=2)
    return out.getvalue()


OTHER = "b" * 32
FILES = {
    "rows.parquet": (parquet(uid=[OTHER, OTHER, UID], url=["", "", "x"]), {"row": 1}),
    "erased.parquet": (parquet(uid=[UID], url=[""], caption=[""], drop_reason=["x"]), {}),
    "url.parquet": (parquet(final_url=["x", "y", URL]), {"URL": 2}),  # as a value, and in a text
    "text.parquet": (parquet(uid=[OTHER], error_message=[f"refused: {URL} (404)"]), {"URL": 1}),
    "nested.parquet": (parquet(uid=[OTHER], captions=[[{"caption": CAPTION}, {"caption": "dog"}]]), {"caption": 1}),
    "short.parquet": (parquet(uid=[OTHER], caption=["cat"]), {"caption": 1}),
    "classes.parquet": (parquet(key=["1"], label_name=["cat"]), {}),
    "preview.parquet": (parquet(preview=[None, b"other", IMAGE]), {"image": 1}),
    "damaged.parquet": (b"PAR1" + URL.encode(), {"URL": 1}),
    "page.html": (f"<p>{CAPTION}</p>".encode(), {"caption": 1}),
    "copy.jpg": (IMAGE, {"image": 1}),
    "other.jpg": (IMAGE[::-1], {}),
}


@pytest.mark.parametrize("name", FILES)
def test_scan_finds_what_a_file_holds(scanner, name):
    data, expected = FILES[name]
    assert scanner.scan(io.BytesIO(data), name, len(data)) == expected


def test_scan_finds_members_of_a_shard_whatever_their_keys(scanner):
    out = io.BytesIO()
    writer = ShardWriter(out)
    writer.write("1", {"jpg": IMAGE, "txt": b"another text", "json": b"{}"})
    writer.write("2", {"jpg": b"other", "txt": CAPTION.encode(), "json": f'{{"url": "{URL}"}}'.encode()})
    writer.write(UID, {"jpg": b"other", "txt": b"x", "json": b"{}"})
    writer.close()
    data = out.getvalue()
    expected = {"image": 1, "caption": 1, "URL": 1, "row": 1}
    assert scanner.scan(io.BytesIO(data), "00000.tar", len(data)) == expected
    assert scanner.scan(io.BytesIO(data[:1200]), "00000.tar", 1200) == {}, "a damaged shard is searched as bytes"


def test_scan_finds_a_text_at_any_place_of_a_large_file_once(traces):
    scanner = Scanner(traces, whole_bytes=1 << 17)
    for at in (0, (1 << 17) - 9, 1 << 17, (1 << 18) - 3, 300_000):
        data = b" " * at + f'"{URL}"'.encode() + b" " * (400_000 - at)
        assert scanner.scan(io.BytesIO(data), "log", len(data)) == {"URL": 1}, at
