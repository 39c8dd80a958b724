"""A folder of images: its rows against a slow reader, hostile files and names, lists, and what stays when it is moved."""

import json
import os
import re
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataops.errors import ConfigError, UnusableSource
from dataops.store import FolderStore
from plugins.own_images.captions import MAX_CAPTIONS
from plugins.own_images.sources import FolderSource
from plugins.own_images.survey import RowCollector
from plugins.own_images.tests.made import outcomes, run, write_files
from tests.image_files import photo
from tests.inline_executor import InlineExecutor

pytestmark = pytest.mark.timeout(240)


def extract(folder, **keys):
    with tempfile.TemporaryDirectory() as work:
        made = run(Path(work), {"kind": "folder", "folder": str(folder), **keys}, InlineExecutor(), "extract")
        return outcomes(FolderStore(Path(work) / "store"), made)


STEMS, ENDINGS = ("a", "b", "sub/a", "ü x%20", ".hidden", "a.b"), (".jpg", ".PNG", ".txt", ".json", ".jpg.txt", ".md")
CONTENTS = (
    *("", " \n", "one  caption", '{"caption": "from json"}', '{"captions": ["one caption", "two"], "title": "T"}'),
    *("{}", "[", '["listed", 3]', '{"caption": 7, "text": null}', "\ufeffmarked", "\xff".encode("latin-1")),
)


def slow_rows(files):
    """Return the rows of a folder, one image after the other, with a look at all files for each."""
    found = {}
    files = {name: content for name, content in files.items() if not re.search(r"(^|/)\.", name)}
    images = {name for name in files if name.lower().endswith((".jpg", ".png"))}
    stems = {name: re.sub(r"\.[^.]+$", "", name) for name in files}
    for name in files:
        if name.endswith((".txt", ".json")) and stems[name] in images:
            stems[name] = re.sub(r"\.[^.]+$", "", stems[name])
    for stem in sorted({stems[name] for name in files if name in images or name.endswith((".txt", ".json"))}):
        pictures = sorted(name for name in images if stems[name] == stem)
        sides = [name for name in files if stems[name] == stem and name not in images]
        texts, bad = [], 0
        for side in sorted(sides, key=lambda name: (name.endswith(".json"), name)):
            if not side.endswith((".txt", ".json")):
                continue
            raw = files[side]
            try:
                text = raw.decode("utf-8-sig") if isinstance(raw, bytes) else raw.removeprefix("\ufeff")
                value = json.loads(text) if side.endswith(".json") else [text]
            except ValueError:
                bad += 1
                continue
            if isinstance(value, dict):
                value = [
                    one
                    for key in value
                    for one in (value[key] if isinstance(value[key], list) else [value[key]])
                    if key in ("caption", "captions", "text", "title")
                ]
            texts += [" ".join(one.split()) for one in value if isinstance(one, str) and one.strip()]
        reason = "no_image" if not pictures else "several_images" if len(pictures) > 1 else None
        if reason is None and not texts:
            reason = "bad_caption" if bad else "no_caption"
        shown = (
            pictures
            or sorted([s for s in sides if s.endswith((".txt", ".json"))], key=lambda n: (n.endswith(".json"), n))[:1]
        )
        for name in shown:
            found |= {(name, text): reason for text in dict.fromkeys(texts) or [""]}
    return found


@given(
    st.dictionaries(
        st.builds(str.__add__, st.sampled_from(STEMS), st.sampled_from(ENDINGS)), st.sampled_from(CONTENTS), max_size=9
    )
)
def test_rows_are_those_of_a_slow_reader(files):
    with tempfile.TemporaryDirectory() as name:
        source = FolderSource(folder=str(write_files(Path(name), {"z.jpg": b"", **files})))
        rows = RowCollector()
        for file in source.source_files():
            source.read(file, rows)
        quoted = {
            (path.replace("%", "%25").replace("ü x", "%C3%BC%20x"), text): why
            for (path, text), why in slow_rows({"z.jpg": b"", **files}).items()
        }
        found = {(row["url"].removeprefix("source://folder/"), row["caption"]): row["drop_reason"] for row in rows.rows}
        assert found == quoted


def test_files_that_must_not_be_read_are_dropped_and_nothing_else(tmp_path):
    secret = write_files(tmp_path / "elsewhere", {"secret.jpg": photo(0), "secret.txt": "the secret words"})
    marked = photo(6)[:2] + b"\xff\xe1" + (2 + 29 + 40).to_bytes(2) + b"http://ns.adobe.com/xap/1.0/\0".ljust(29) + (
        b'plus:DataMining="DMI-PROHIBITED"'.ljust(40)
    ) + photo(6)[2:]  # fmt: skip
    folder = write_files(tmp_path / "photos", {
        "good.JPEG": photo(1), "good.txt": "a good photo",
        "deep/er/good.jpg": photo(2), "deep/er/good.json": '{"captions": ["a deep photo", "in a folder"]}',
        "text.jpg": "no image at all", "text.txt": "words in place of pixels",
        "cut.jpg": photo(3)[:200], "cut.txt": "a photo that ends early",
        "large.png": photo(4, "PNG", 500), "large.txt": "a photo of many bytes",
        "old.tiff": b"II*\0" + bytes(100), "old.txt": "a format without a decoder",
        "optout.jpg": marked, "optout.txt": "its owner reserves the rights",
        "longcaption.jpg": photo(5), "longcaption.txt": b"x" * (2 << 20),
        "latin.jpg": photo(7), "latin.txt": "stra\xdfe".encode("latin-1"),
        "many.jpg": photo(8), "many.json": json.dumps({"captions": [f"caption {n}" for n in range(MAX_CAPTIONS + 5)]}),
        "cafe\u0301.jpg": photo(12), "caf\u00e9.txt": "a name in two spellings",
        "the\u0301.jpg": photo(13), "th\u00e9.jpg.txt": "another in two spellings",
        ".hidden.jpg": photo(9), "raw.dng": photo(9), "__MACOSX/x.jpg": photo(9),
    })  # fmt: skip
    (folder / "link.jpg").symlink_to(secret / "secret.jpg")
    (folder / "link.txt").write_text("a link to a secret")
    (folder / "inside.jpg").symlink_to(folder / "deep/er/good.jpg")
    (folder / "inside.txt").write_text("a link inside of the folder")
    write_files(folder, {"words.jpg": photo(10)})
    (folder / "words.txt").symlink_to(secret / "secret.txt")
    (folder / "linked").symlink_to(secret)
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "pipe.txt").write_text("a named pipe")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "zero.txt").write_text("a device without an end")
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "gone.txt").write_text("a link to nothing")
    (folder / "itself.jpg").symlink_to("itself.jpg")
    (folder / "itself.txt").write_text("a link to itself")
    (folder / os.fsdecode(b"bytes\xff.jpg")).write_bytes(photo(11))
    (folder / os.fsdecode(b"bytes\xff.txt")).write_text("a name that is not UTF-8")

    limit = {
        "download": {"max_bytes": 100_000, "encode_format": "png", "encode_quality": 3},
        "filter": {"captions_per_image": 2},
    }
    made = run(tmp_path, {"kind": "folder", "folder": str(folder)}, InlineExecutor(), "download", **limit)
    found = outcomes(FolderStore(tmp_path / "store"), made)
    by_path = {}
    for (path, _), reason in found.items():
        by_path.setdefault(path, set()).add(reason)
    captions = by_path.pop("many.jpg")
    assert captions >= {None, "duplicate_url"}
    assert by_path == {
        "good.JPEG": {None}, "deep/er/good.jpg": {None, "duplicate_url"}, "inside.jpg": {None}, "bytes%FF.jpg": {None},
        "text.jpg": {"not_an_image"}, "cut.jpg": {"decode"}, "large.png": {"too_large"}, "optout.jpg": {"opt_out"},
        "old.tiff": {"unsupported_format"}, "longcaption.jpg": {"bad_caption"}, "latin.jpg": {"bad_caption"},
        "words.jpg": {"bad_caption"}, "link.jpg": {"outside_source"}, "zero.jpg": {"not_a_file"},
        "pipe.jpg": {"not_a_file"}, "gone.jpg": {"no_image"}, "itself.jpg": {"no_image"},
        "cafe%CC%81.jpg": {None}, "the%CC%81.jpg": {None},
    }  # fmt: skip
    assert made["extract"].facts["read"]["captions_left_out"] == 5
    assert [made["extract"].facts["read"][name] for name in ("linked_folders", "other_files")] == [2, 1]
    assert not any(b"secret words" in path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file())


LIST = [
    {"file_name": "a.jpg", "caption": "first, with a comma"},
    {"file_name": "./sub//b.jpg", "caption": "below", "caption_2": ""},
    {"file_name": "sub\\b.jpg", "caption": "a path of Windows", "caption_2": "second"},
    {"file_name": "sub/caf\u00e9.jpg", "caption": "composed", "caption_2": ""},
    {"file_name": "sub/the\u0301.jpg", "caption": "decomposed", "caption_2": ""},
    {"file_name": "", "caption": "no path", "caption_2": ""},
    {"file_name": "missing.jpg", "caption": "not there", "caption_2": ""},
    {"file_name": "../elsewhere.jpg", "caption": "above", "caption_2": ""},
    {"file_name": "sub/../a.jpg", "caption": "there and back", "caption_2": ""},
    {"file_name": "/etc/hostname", "caption": "absolute", "caption_2": ""},
    {"file_name": "file:///etc/hostname", "caption": "a URL", "caption_2": ""},
]


@pytest.mark.parametrize("name", ["list.tsv", "list.jsonl", "list.parquet", "list.csv.gz", "semicolons.csv"])
def test_list_in_any_format_gives_the_same_rows(name, tmp_path):
    import gzip

    folder = write_files(tmp_path / "photos", {"a.jpg": photo(1), "sub/b.jpg": photo(2), "unlisted.jpg": photo(3)})
    write_files(folder / "sub", {"cafe\u0301.jpg": photo(5), "th\u00e9.jpg": photo(6)})
    write_files(tmp_path, {"elsewhere.jpg": photo(4)})
    if name.endswith(".parquet"):
        types = {"file_name": pa.binary(), "caption": pa.dictionary(pa.int8(), pa.string()), "caption_2": pa.binary()}
        pq.write_table(pa.Table.from_pylist(LIST, pa.schema(types)), folder / name)
    else:
        mark = "\t" if "tsv" in name else ";" if "semi" in name else ","
        rows = [[row.get(key, "") for key in LIST[1]] for row in LIST]
        lines = [mark.join(f'"{v}"' if mark == "," else v for v in row) for row in rows]
        text = "\n".join([mark.join(LIST[1]), *lines] if "jsonl" not in name else map(json.dumps, LIST))
        (folder / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode("utf-8-sig"))
    source = {"kind": "folder", "folder": str(folder), "captions": name, "name": "own"}
    made = run(tmp_path, source, InlineExecutor(), "download", filter={"dedupe": ["uid", "pair"]})
    found = {
        caption: (path, reason) for (path, caption), reason in outcomes(FolderStore(tmp_path / "store"), made).items()
    }
    assert found == {
        "first, with a comma": ("a.jpg", None), "second": ("sub/b.jpg", None), "below": ("sub/b.jpg", None),
        "a path of Windows": ("sub/b.jpg", None),
        "composed": ("sub/caf%C3%A9.jpg", None), "decomposed": ("sub/the%CC%81.jpg", None),
        "no path": ("", "no_image"), "not there": ("missing.jpg", "no_image"),
        "above": ("%2E%2E/elsewhere.jpg", "outside_source"), "there and back": ("sub/%2E%2E/a.jpg", "outside_source"),
        "absolute": ("/etc/hostname", "outside_source"), "a URL": ("file:///etc/hostname", "outside_source"),
    }  # fmt: skip


L = {"captions": "l.csv"}


@pytest.mark.parametrize(
    ("files", "keys", "message"),
    [
        ({}, {}, r"source.folder: '.*' has no image .*; it has no file"),
        ({"a.tar": "", "b.md": ""}, {}, r"has no image .*it has files that end in .md, .tar"),
        ({"a.jpg": ""}, {"captions": "none.csv"}, r"source.captions: 'none.csv' cannot be read in .*No such file"),
        ({"l.csv": "img_id,caption\n1,x\n"}, L, r"no column named file_name.*\'img_id\', \'caption\'.*source.path_column"),
        ({"l.csv": "path,words\na.jpg,x\n"}, L, r"l.csv: no column named caption.*'words'.*source.caption_columns"),
        ({"l.csv": "path,image,text\na,b,c\n"}, {"captions": "l.csv"}, r"several columns named .*source.path_column"),
        ({"l.csv": "path,text\na.jpg,Stra\xdfe\n".encode("latin-1")}, L, r"l.csv: row 0 is not UTF-8 .*iconv"),
        ({"l.csv": "path,text,text\na.jpg,x,y\n"}, L, r"l.csv: several columns named text; .*Rename one"),
        ({"l.csv": ""}, {"captions": "l.csv"}, r"l.csv: contains no row"),
        ({"l.jsonl": '[{"path": "a.jpg"}]'}, {"captions": "l.jsonl"}, r"l.jsonl: contains no line that is a JSON object"),
        ({"l.parquet": "PAR1 and no more"}, {"captions": "l.parquet"}, r"l.parquet: cannot be read \("),
        ({"l.xlsx": ""}, {"captions": "l.xlsx"}, r"l.xlsx: no pair list by its ending"),
        ({"l.csv": "path,text\n"}, {"captions": "../photos.csv"}, r"source.captions: '../photos.csv' cannot be read"),
    ],
)  # fmt: skip
def test_error_names_the_place_and_the_remedy(files, keys, message, tmp_path):
    folder = write_files(tmp_path / "photos", files)
    folder.mkdir(exist_ok=True)
    write_files(tmp_path, {"photos.csv": "path,text\n"})
    with pytest.raises((ConfigError, UnusableSource), match=message):
        extract(folder, **keys)


def test_list_whose_captions_are_no_texts_is_an_error(tmp_path):
    write_files(tmp_path, {"a.jpg": photo(1)})
    pq.write_table(pa.table({"path": ["a.jpg"], "text": [7], "words": ["x"]}), tmp_path / "l.parquet")
    with pytest.raises(ConfigError, match=r"no column named .*text.*its columns of text: 'words'"):
        extract(tmp_path, captions="l.parquet")


def test_problems_come_before_a_run(tmp_path):
    write_files(tmp_path, {"file": ""})
    for folder, message in (("file", "is a file, not a folder"), ("nowhere", "is not a folder"), (".", "has no image")):
        (problem,) = FolderSource(folder=str(tmp_path / folder)).problems()
        assert problem.startswith("folder: ")
        assert message in problem


def test_moved_folder_gives_the_same_keys_and_a_changed_photo_another(tmp_path):
    files = {f"{n}.jpg": photo(n) for n in range(6)} | {f"{n}.txt": f"photo number {n}" for n in range(6)}
    first = run(
        tmp_path, {"kind": "folder", "folder": str(write_files(tmp_path / "one", files))}, InlineExecutor(), "download"
    )
    (tmp_path / "one").rename(tmp_path / "two")
    source = {"kind": "folder", "folder": str(tmp_path / "two")}
    moved = run(tmp_path, source, InlineExecutor(), "download")
    assert {name: one.key for name, one in moved.items()} == {name: one.key for name, one in first.items()}
    write_files(tmp_path / "two", {"3.jpg": photo(30)})
    changed = run(tmp_path, source, InlineExecutor(), "download")
    assert changed["extract"].key == first["extract"].key
    assert changed["download"].key != first["download"].key
    write_files(tmp_path / "two", {"3.txt": "another caption"})
    assert run(tmp_path, source, InlineExecutor(), "extract")["extract"].key != first["extract"].key
