"""WebDataset shards and datasets in Parquet: their rows, and files that are damaged, hostile or odd."""

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataops.errors import ConfigError, UnusableSource
from dataops.snapshot import read_parts
from dataops.store import FolderStore
from plugins.own_images.parquet_batches import BATCH_BYTES, iter_batches
from plugins.own_images.tests.made import outcomes, run
from tests.image_files import photo
from tests.inline_executor import InlineExecutor
from tests.servers.hub import Hub
from tests.tar_files import write_tar

pytestmark = pytest.mark.timeout(240)


def read(tmp_path, source, until="download", **tables):
    made = run(tmp_path, source, InlineExecutor(), until, **tables)
    return outcomes(FolderStore(tmp_path / "store"), made)


def test_samples_of_shards(tmp_path):
    long_name = "deep/" * 40 + "photo"  # needs an extension of the tar format
    write_tar(tmp_path / "a.tar", [
        ("x/._0001.jpg", "attributes"), ("x/0001.jpg", photo(1)), ("x/._0001.txt", "of macOS"), ("__MACOSX/x.jpg", ""),
        ("x/0001.txt", "first of all"), ("x/0001.json", '{"caption": "first of all", "url": "https://a.test/1.jpg"}'),
        (f"{long_name}.png", photo(2, "PNG")), (f"{long_name}.json", '{"captions": ["long name", "twice"]}'),
        ("two.jpg", photo(3)), ("two.png", photo(4, "PNG")), ("two.txt", "two images"),
        ("seg.jpg", photo(5)), ("seg.mask.png", photo(6, "PNG")), ("seg.txt", "with a mask"),
        ("none.jpg", photo(7)), ("none.json", "{}"), ("alone.txt", "no image"), ("label.cls", "7"),
        ("bad.jpg", photo(8)), ("bad.json", "[" * 5000),
        ("../out.jpg", photo(9)), ("../out.txt", "above"), ("/abs.jpg", photo(9)), ("/abs.txt", "absolute"),
        ("x/0001.jpg", photo(10)), ("x/0001.txt", "its name again"),
        ("pixels.jpg", "words"), ("pixels.txt", "no pixels"), ("big.png", photo(11, "PNG", 500)),
        ("big.txt", "too large a file"),
        ("day 2026.12.01.jpg", photo(13)), ("day 2026.12.01.txt", "a name with dots"), ("day 2026.12.02.jpg", photo(14)),
        ("day 2026.12.02.txt", "another with dots"), ("day 2026.12.03.txt", "dots and no image"),
    ])  # fmt: skip
    with tarfile.open(tmp_path / "b.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
        for name, data in (("link.txt", b"a link"), ("größe.JPG", photo(12)), ("größe.TXT", b"a name in UTF-8")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    source = {"kind": "webdataset", "paths": [str(tmp_path / "*.tar")]}
    tables = {"download": {"max_bytes": 100_000}, "filter": {"dedupe": ["uid", "pair"], "min_words": 1, "min_chars": 1}}
    rows = read(tmp_path, source, **tables)
    assert {(path, why) for (path, caption), why in rows.items() if not caption} == {
        ("a.tar/none.jpg", "no_caption"), ("a.tar/bad.jpg", "bad_caption")
    }  # fmt: skip
    found = {caption: (path[-20:], reason) for (path, caption), reason in rows.items() if caption}
    assert found == {
        "first of all": ("a.tar/x/0001.jpg", None),
        "long name": ("/deep/deep/photo.png", None), "twice": ("/deep/deep/photo.png", None),
        "two images": ("a.tar/two.png", "several_images"), "with a mask": ("a.tar/seg.jpg", None),
        "no image": ("a.tar/alone.txt", "no_image"), "above": ("a.tar/%2E%2E/out.jpg", "outside_source"),
        "absolute": ("a.tar//abs.jpg", "outside_source"), "its name again": ("a.tar/x/0001.jpg", "repeated_name"),
        "no pixels": ("a.tar/pixels.jpg", "not_an_image"), "too large a file": ("a.tar/big.png", "too_large"),
        "a name with dots": ("day%202026.12.01.jpg", None), "another with dots": ("day%202026.12.02.jpg", None),
        "dots and no image": ("day%202026.12.03.txt", "no_image"),
        "a link": ("b.tar/link.txt", "no_image"), "a name in UTF-8": ("b.tar/gr%C3%B6%C3%9Fe.JPG"[-20:], None),
    }  # fmt: skip


def _tar(*members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


WHOLE = _tar(("1.jpg", photo(1)), ("1.txt", b"a caption of it"))


def _long_name(size):
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, size
    return info.tobuf(tarfile.GNU_FORMAT)


LONG = _long_name(2 << 20)


DAMAGED = [
    (b"", ".*empty"),
    (bytes(10_240), "has no member"),
    (WHOLE + WHOLE, ".*tars were joined"),
    (WHOLE[:700], ""),
    (WHOLE[:512] + b"x" * 512 + WHOLE[1024:2048] + b"\xff" * 512 + WHOLE[2560:], ""),
    (photo(1), ""),
    (LONG + bytes(2 << 20) + WHOLE, ".*an extension of 2,097,152 bytes"),
]


def test_damaged_shard_is_an_error_or_a_failed_file(tmp_path):
    write_tar(tmp_path / "good.tar", {"2.jpg": photo(2), "2.txt": "a good caption"})
    source = {"kind": "webdataset", "paths": [str(tmp_path / "*.tar")]}
    for content, message in DAMAGED:
        (tmp_path / "bad.tar").write_bytes(content)
        message = message if message.startswith("has") else f"cannot be read as a tar{message}"
        with pytest.raises(UnusableSource, match=f"bad.tar: {message}"):
            read(tmp_path, source, "extract")
    found = read(tmp_path, {**source, "max_failed_files": 1})
    assert found == {("good.tar/2.jpg", "a good caption"): None}


def write_dataset(path, images, columns, kind, group=4):
    table = pa.table({"image": pa.array(images, kind)} | columns)
    features = {"image": {"_type": "Image"}}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=group)


STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def test_rows_of_a_dataset_in_parquet(tmp_path):
    data = [*map(photo, range(9)), b"", b"no image", photo(9, "PNG", 500), None]
    captions = [[f"photo number {n}", f"the photo {n}"] if n else None for n in range(14)]
    more = {"captions": captions, "depth": pa.array([b"x"] * 14, pa.binary()), "label": list(range(14))}
    structs = [one and {"bytes": one, "path": None} for one in data]
    structs[9] = {"bytes": b"", "path": None}
    write_dataset(tmp_path / "0.parquet", [*structs, {"bytes": None, "path": "x.jpg"}], more, STRUCT)
    write_dataset(tmp_path / "1.parquet", [*data, None], more, pa.large_binary())
    source = {"kind": "huggingface", "paths": [str(tmp_path / "*.parquet")], "name": "set"}
    tables = {"download": {"max_bytes": 100_000}, "filter": {"dedupe": ["uid", "pair"]}}
    found = read(tmp_path, source, **tables)
    reasons = {9: "not_an_image", 10: "not_an_image", 11: "too_large", 12: "no_image", 13: "no_image"}
    for name in ("0.parquet", "1.parquet"):
        expected = {(f"{name}/{n}", text): reasons.get(n) for n in range(1, 14) for text in captions[n]}
        expected[f"{name}/0", ""] = "no_caption"
        assert {key: why for key, why in found.items() if key[0].startswith(name)} == expected


@pytest.mark.parametrize(
    ("columns", "keys", "message"),
    [
        ({"text": ["x"], "n": [1]}, {}, "d.parquet: no column of images .*text string, n int64.*source.image_column"),
        ({"image": [b"x"], "words": ["x"]}, {}, "d.parquet: no column named caption.*'words'.*source.caption_columns"),
        ({"image": [b"x"], "img": [b"x"], "text": ["x"]}, {}, "d.parquet: several columns of images"),
        ({"image": [b"x"], "text": ["x"]}, {"image_column": "text"}, "'text' is no column of images"),
        ({"image": [b"x"], "text": ["x"]}, {"caption_columns": ["alt"]}, "no column named alt"),
        ({"a": [{"bytes": b"x"}], "a ": [{"bytes": b"x"}], "text": ["x"]}, {}, "several columns of images"),
        ({"image": [b"x"], "text": ["x"], "text ": ["x"]}, {}, "several columns named text"),
    ],
)
def test_missing_column_is_named(columns, keys, message, tmp_path):
    table = pa.table(columns)  # from names that may be there twice
    pq.write_table(table.rename_columns([name.strip() for name in columns]), tmp_path / "d.parquet")
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, {"kind": "huggingface", "paths": [str(tmp_path / "d.parquet")], **keys}, "extract")


def test_dataset_of_the_hub_is_fetched_once_and_pinned(tmp_path, monkeypatch):
    write_dataset(tmp_path / "d.parquet", [{"bytes": photo(n), "path": None} for n in range(5)],
                  {"text": [f"photo number {n}" for n in range(5)]}, STRUCT)  # fmt: skip
    data = (tmp_path / "d.parquet").read_bytes()
    with Hub({"owner/photos": {"data/train-0.parquet": data, "data/test-0.parquet": data, "README.md": b"#"}}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        source = {"kind": "huggingface", "paths": ["hf://datasets/owner/photos/data/train-*.parquet"]}
        found = read(tmp_path, source)
        assert found == {(f"data/train-0.parquet/{n}", f"photo number {n}"): None for n in range(5)}
        assert [file for method, file, _ in hub.asked if method == "GET"] == ["data/train-0.parquet"]
        for path, message in (
            ("hf://datasets/owner/none", "the dataset or a file of it is not there; check its name"),
            ("hf://datasets/owner/photos/x/*.parquet", "matches no file; the dataset has: data/train-0.parquet"),
            ("hf://owner/photos", "is not a file"),
        ):
            with pytest.raises((ConfigError, UnusableSource), match=message):
                read(tmp_path, {"kind": "huggingface", "paths": [path]}, "extract")


def test_evidence_names_the_shard_of_each_image(tmp_path):
    stated = {"text": "its caption", "url": "https://a.test/1.jpg", "license": "https://b.test/by"}
    write_tar(tmp_path / "a.tar", {"1.jpg": photo(1), "1.json": json.dumps(stated)})
    made = run(
        tmp_path,
        {"kind": "webdataset", "paths": [str(tmp_path / "a.tar")], "name": "own"},
        InlineExecutor(),
        "download",
    )
    store = FolderStore(tmp_path / "store")
    (row,) = read_parts(store, made["download"]).to_pylist()
    (seen,) = read_parts(store, made["download"], "evidence-").to_pylist()
    assert (row["page_url"], row["license"]) == ("https://a.test/1.jpg", "https://b.test/by"), "opt-out lists name them"
    assert (seen["archive"], seen["archive_offset"], seen["bytes"]) == ("own/a.tar", 0, len(photo(1)))
    assert (seen["http_status"], seen["fetched_at"] or None) == (None, None)


@pytest.mark.parametrize("kind", ["text", "bytes", "struct", "list"])
def test_repeated_value_fills_no_memory(tmp_path, kind):
    long, few = "a cat " * (BATCH_BYTES // 60), 37
    value = {
        "text": long,
        "bytes": long.encode(),
        "struct": {"bytes": long.encode(), "path": None},
        "list": [long, "b"],
    }
    table = pa.table({"number": range(few), "value": [value[kind]] * few})
    pq.write_table(table, tmp_path / "long.parquet", row_group_size=20, dictionary_pagesize_limit=1 << 28)
    assert (tmp_path / "long.parquet").stat().st_size < BATCH_BYTES / 2
    found = list(iter_batches(tmp_path / "long.parquet", table.column_names, 100))
    assert max(batch.num_rows for _, batch in found) <= 11
    assert [start for start, _ in found] == [batch["number"][0].as_py() for _, batch in found]
    assert [one for _, batch in found for one in batch.to_pydict()["value"]] == [value[kind]] * few
