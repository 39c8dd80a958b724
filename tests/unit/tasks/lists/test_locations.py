"""Lists are read by lines from files, and each error names the list, the line and what to do."""

from pathlib import Path

import pytest

from dataops.errors import ConfigError
from tasks.lists import locations
from tasks.lists.locations import check_location, read_values


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def parse_word(text: str) -> str:
    if not text.isalpha():
        raise ValueError("it is no word; write letters")
    return text.lower()


@pytest.mark.parametrize("size", [1, 3, 1 << 20])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.txt", "\ufeff# words\n\nOne\r\n  two # a comment\nthree"),
        ("list.csv", "one,1\ntwo\n# a comment\nthree,x,y\n"),
        ("list.csv", 'id,Word\n1,one\n2,"two"\n3,three\n'),
    ],
)
def test_reads_a_value_from_each_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str, size: int
) -> None:
    monkeypatch.setattr(locations, "_READ_BYTES", size)
    assert list(read_values(write(tmp_path / name, content), ("word",), parse_word)) == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("one\n\n123\n", "line 3: it is no word; write letters"),
        ("one two\n", "line 1: it is no word; write letters"),
        (b"one\n\xff\n", "line 2: not UTF-8; save the list as UTF-8 text"),
        (b"a" * 20_000, "line 1: longer than 16,384 bytes; write one value a line"),
        ("# nothing\n", "has no entry; check its address, or remove it from the config"),
    ],
)
def test_error_names_the_list_and_the_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = write(tmp_path / "list.txt", content)
    with pytest.raises(ConfigError) as caught:
        list(read_values(path, (), parse_word))
    assert str(caught.value) == f"{path} {message}"


def test_line_that_is_no_csv_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"list\.csv line 2: not CSV \(.*\); write one row a line"):
        list(read_values(write(tmp_path / "list.csv", "one\na\rb\n"), (), parse_word))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.txt is not a file; correct the path of the list"):
        list(read_values(str(tmp_path / "none.txt"), (), str))


def test_locations_are_paths_https_addresses_s3_uris_and_this_machine() -> None:
    for location in (
        "a/b.txt",
        "https://lists.example/a?b=c",
        "s3://bucket/key",
        "http://127.0.0.1:80/",
        "http://[::1]/a",
    ):
        assert check_location(location) == location
    for location in ("http://lists.example/a", "ftp://lists.example/a", ""):
        with pytest.raises(ValueError, match=r"https://"):
            check_location(location)
