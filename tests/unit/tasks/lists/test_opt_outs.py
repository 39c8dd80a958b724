"""Opt-out lists match rows by URL, domain and sha256, whatever the spelling of the entry."""

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from dataops.errors import ConfigError, SourceError, UnusableSource
from dataops.schema import CAPTIONS
from dataops.snapshot import Draft
from dataops.store import FolderStore
from tasks.lists.opt_outs import (
    RowMatches,
    count_matches,
    mark_rows,
    match_rows,
    parse_entry,
    put_lists,
    read_inputs,
    recall_lists,
)

SHA = "ab" * 32


def matches(folder, entries, rows):
    """Return which rows match a list with these entries, through the scratch of a snapshot."""
    (folder / "list.txt").write_text(entries, "utf-8")
    locations = {"no": str(folder / "list.txt")}
    draft = Draft(FolderStore(folder), "filter", "0" * 16)
    lists = put_lists(draft, recall_lists("filter.opt_out_lists", locations, read_inputs("", locations)))
    (found,) = match_rows(rows, lists.load(draft))
    assert found.name == "no"
    return found.mask.tolist()


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("https://A.example:443/./x%20y.jpg#top", [1, 1, 0, 0, 0]),  # canonical, with either scheme
        ("url:http://a.example/x%20y.jpg", [1, 1, 0, 0, 0]),
        ("a.example", [1, 1, 1, 0, 0]),
        ("*.A.Example.", [1, 1, 1, 0, 0]),
        ("img.a.example", [0, 0, 1, 0, 0]),
        ("example.com", [0, 0, 0, 0, 1]),
        (f"sha256:{SHA.upper()}", [0, 0, 0, 1, 0]),
        (SHA, [0, 0, 0, 1, 0]),
        ("http://b.example/page", [0, 0, 0, 1, 0]),  # the page of an image
        ("bücher.example", [0, 0, 0, 0, 1]),  # the page of a further caption
        ("b.co.uk\nc.github.io\nple.com", [0, 0, 0, 0, 0]),
        ("https://a.example/*", [1, 1, 1, 0, 0]),
        ("http://A.example*", [1, 1, 1, 0, 0]),
        ("https://A.example", [1, 1, 1, 0, 0]),
        ("http://me@a.example:8080/", [1, 1, 1, 0, 0]),
        ("http://bücher.example/", [0, 0, 0, 0, 1]),
        ("url:http://a.example/", [0, 0, 0, 0, 0]),
        ("*://*.a.example/*", [1, 1, 1, 0, 0]),
        ("b.test\texample.com", [0, 0, 0, 1, 1]),
        ("http://a.example/x%20y.jpg\t2026-01-01", [1, 1, 0, 0, 0]),
        ("http://a.example/x%20y.jpg 2026", [1, 1, 0, 0, 0]),
        ("http://a.example/x%20y.jpg,2026-01-01", [1, 1, 0, 0, 0]),
        ("http://a.example/x%20y.jpg, http://b.test/1.jpg", [1, 1, 0, 1, 0]),
        ("http://a.example/x%20y.jpg;http://b.test/1.jpg", [1, 1, 0, 1, 0]),
        (f"http://a.example/x%20y.jpg {SHA}", [1, 1, 0, 1, 0]),
        (f"url,sha256\nhttp://a.example/x%20y.jpg,{SHA}", [1, 1, 0, 1, 0]),
        ("Image URL;Domain;note\n;example.com;n\nhttp://a.example/x%20y.jpg;b.test;n", [1, 1, 0, 1, 1]),
        ("a.example\rexample.com\r", [1, 1, 1, 0, 1]),
    ],
)
def test_entry_matches_these_rows(tmp_path, entry, expected):
    rows = pa.table(
        {
            "url": [
                "http://a.example/x%20y.jpg",
                "https://a.example/x%20y.jpg",
                "http://img.a.example:8080/1",
                "http://b.test/1.jpg",
                "http://sub.example.com/2.jpg",
            ],
            "page_url": [None, None, "http://c.test/", "https://b.example/page", None],
            "sha256": [None, None, None, SHA, "cd" * 32],
            "captions": pa.array([None] * 4 + [[{"page_url": "http://www.xn--bcher-kva.example/"}]], CAPTIONS.type),
        }
    )
    assert matches(tmp_path, f"# a list\n{entry}\n", rows) == list(map(bool, expected))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("co.uk", "'co.uk' is a public suffix, below which anybody may register; name a domain below it"),
        ("com", "'com' is none of"),
        ("ab" * 16, "is no URL, no domain and no digest (64 hex digits of sha256, or "),
        ("phash:0123", "is no phash: 16 hex digits"),
        ("phash:0123456789abcdef~17", "must be 0 to 16 bits"),
        ("iscc:KACYPXW445FTYNJ3", "is none of"),
        ("https:///x", "is no http or https URL (bad_url)"),
        ("two words", "is none of"),
        ("https://a.example/*.jpg", "only whole domains may have a wildcard"),
        ("https://a.*/", "only whole domains may have a wildcard"),
    ],
)
def test_wrong_entry_is_named(entry, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the message is compared
        parse_entry(entry)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "line", ["https://a.example/my photo.zip", "a.example b", "https://a.example/1 no", "a.example no"]
)
def test_line_that_is_not_understood_as_a_whole_is_refused(tmp_path, line):
    (tmp_path / "list.txt").write_text(f"b.example\n{line}\n")
    for name, place in (("list.txt", ".*line 2: "), ("none", "")):
        with pytest.raises(ConfigError, match=rf"^filter\.opt_out_lists\.no: {place}"):
            read_inputs("filter.opt_out_lists", {"no": str(tmp_path / name)})


def test_list_is_read_anew_and_a_change_after_the_plan_is_an_error(tmp_path):
    path = tmp_path / "list.txt"
    locations = {"no": str(path)}
    path.write_text("a.example\nb.example\n")
    first = read_inputs("pack", locations)
    path.write_text("b.example\n# the same entries in another order\na.example\n")
    assert read_inputs("pack", locations) == first
    path.write_text("a.example\n")
    assert recall_lists("pack", locations, first)["no"].digest == first[0].digest  # what the plan read is in memory
    assert read_inputs("pack", locations) != first
    with pytest.raises(SourceError, match=r"pack\.no: the list has changed since this run read it; rerun"):
        recall_lists("pack", locations, first)
    assert recall_lists("pack", {}, first) == {}


def test_marks_name_each_list():
    rows = pl.DataFrame({"page_opt_out": ["noai", None, None]}, schema={"page_opt_out": pl.String})
    masks = {"a": [True, True, False], "b": [True, False, False]}
    found = [RowMatches(name, np.array(mask)) for name, mask in masks.items()]
    assert mark_rows(rows, found).to_list() == ["noai,list:a,list:b", "list:a", None]


def test_entries_and_lists_that_match_no_row_are_counted(tmp_path, caplog):
    rows = pa.table({"url": ["http://a.example/1", "http://b.a.example/2"], "page_url": ["http://c.test/", None]})
    entries = {"some": "a.example\nhttp://c.test/\nd.example\n", "none": f"{SHA}\nd.example\n"}
    lists = []
    for name, text in entries.items():
        (tmp_path / name).write_text(text)
        read_inputs("filter.opt_out_lists", {name: str(tmp_path / name)})
        draft = Draft(FolderStore(tmp_path / "store"), "filter", name)
        found = recall_lists("", {name: str(tmp_path / name)}, read_inputs("", {name: str(tmp_path / name)}))
        lists += put_lists(draft, found).load(draft)
    counts = count_matches("filter.opt_out_lists", [rows.slice(0, 1), rows.slice(1)], lists)
    assert counts == {"some": {"entries": 3, "matched": 2, "rows": 2}, "none": {"entries": 2, "matched": 0, "rows": 0}}
    assert [record.message.partition(":")[0] for record in caplog.records] == ["filter.opt_out_lists.none"]


def test_perceptual_digests_are_read_from_lines_and_columns(tmp_path):
    texts = {
        "lines": "phash:0123456789ABCDEF\nphash:00ff00ff00ff00ff~2\n",
        "column": "url,phash,note\n,0123456789abcdef,x\n,phash:00ff00ff00ff00ff~2,y\n",
        "one column": "phash\n0123456789abcdef~4\n00ff00ff00ff00ff~2\n",
        "other": "phash:0123456789abcdef\nphash:00ff00ff00ff00ff~3\n",
    }
    digests = {}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        locations = {"no": str(tmp_path / name)}
        inputs = read_inputs("pack.opt_out_lists", locations)
        digests[name] = inputs[0].digest
        (found,) = recall_lists("pack.opt_out_lists", locations, inputs).values()
        bits = 3 if name == "other" else 2
        assert found.copies["phash"].tolist() == [[0x00FF00FF00FF00FF, bits], [0x0123456789ABCDEF, 4]]
        assert not len(found.values)
    assert len(set(digests.values())) == 2


def test_columns_that_are_not_read_are_named(tmp_path, caplog):
    (tmp_path / "list.csv").write_text("url,iscc,md5\nhttps://a.example/1.jpg,KACYPXW445FTYNJ3,ab\n")
    read_inputs("filter.opt_out_lists", {"no": str(tmp_path / "list.csv")})
    assert caplog.messages == [f"{tmp_path}/list.csv: these columns are not read: iscc, md5"]


def test_folder_of_images_must_have_images_only(tmp_path):
    (tmp_path / "letters").mkdir()
    with pytest.raises(ConfigError, match=r"^pack\.no: .*letters has no image; add"):
        read_inputs("pack", {"no": str(tmp_path / "letters")})
    (tmp_path / "letters" / ".hidden").write_text("not read")
    (tmp_path / "letters" / "note.txt").write_text("these are mine")
    with pytest.raises(ConfigError, match=r"^pack\.no: .*note\.txt is not read as an image .*convert it to PNG"):
        read_inputs("pack", {"no": str(tmp_path / "letters")})
    (tmp_path / "letters" / "a.png").symlink_to("nowhere")
    with pytest.raises(UnusableSource, match=r"^pack\.no: cannot read .*a\.png: No such file"):
        read_inputs("pack", {"no": str(tmp_path / "letters")})
