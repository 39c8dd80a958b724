"""Lists are read by lines from files, and each error names the list, the line and what to do."""

import gzip
import io
import socket
import threading

import pytest

from dataops.errors import ConfigError, SourceError
from tasks.lists import locations
from tasks.lists.locations import check_location, read_values


def write(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def parse_word(text):
    if not text.isalpha():
        raise ValueError("it is no word; write letters")
    return text.lower()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.txt", "\ufeff# words\n\nOne\r\n  two # a comment\nthree"),
        ("list.txt", "one\rtwo\rthree\r"),
        ("list.txt", "one\r\rtwo\n\rthree"),
        ("list.txt", "one\t2026-01-01\ntwo 2026\nthree, 01.02.2026 12:30:00Z\n"),
        ("list.txt", "one, two;three\n"),
        ("list.txt", "one|two\tthree,\n"),
        ("list.txt", "\"one\"\n'two'\n`three`\n"),
        ("list.csv", "one,1\ntwo\n# a comment\nthree,2026-01-01,17\n"),
        ("list.csv", 'id,Word\n1,one\n2,"two"\n3,three\n'),
        ("list.tsv", "id\tWORD\tnote\n1\tone\ta b\n2\ttwo\n3\tthree\t"),
        ("list", '"Word";"Other Word";date\none;two;2026\n;three;'),
        ("list.csv", "date|other_word\n2026|one\n2026|two\n2026|three"),
    ],
)
def test_reads_all_values_of_each_line(tmp_path, name, content):
    path = write(tmp_path / name, content)
    assert list(read_values(path, ("word", "other-word"), parse_word)) == ["one", "two", "three"]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_line_ends_may_be_split_between_reads(monkeypatch, size):
    class Slow(io.BytesIO):
        def read(self, _=-1, /):
            return super().read(size)

    monkeypatch.setattr(locations, "open_regular", lambda _: Slow(b"one\r\ntwo\rthree\nfour\r"))
    assert list(read_values("list", (), parse_word)) == ["one", "two", "three", "four"]


def test_slow_list_ends_at_its_deadline(tmp_path):
    with pytest.raises(SourceError, match="not whole in time, after 4 bytes"):
        list(read_values(write(tmp_path / "list", "one\n"), (), parse_word, seconds=-1))


@pytest.mark.parametrize(
    ("head", "body", "problem"),
    [
        ("", b"one\ntwo\n", "neither a Content-Length nor chunks"),
        ("Content-Length: 8\r\n", b"one\ntwo\n", None),
        ("Transfer-Encoding: chunked\r\n", b"8\r\none\ntwo\n\r\n0\r\n\r\n", None),
    ],
)
def test_list_of_a_server_needs_an_end(head, body, problem):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            near, _ = server.accept()
            with near:
                near.recv(65536)
                near.sendall(f"HTTP/1.1 200 OK\r\nConnection: close\r\n{head}\r\n".encode() + body)

        threading.Thread(target=answer, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/list"
        if problem:
            with pytest.raises(SourceError, match=problem):
                list(read_values(url, (), parse_word))
        else:
            assert list(read_values(url, (), parse_word)) == ["one", "two"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("one\n\n123\n", "line 3: it is no word; write letters"),
        ("one two3\n", "line 1: it is no word; write letters"),
        ("one,two3\n", "line 1: it is no word; write letters"),
        (b"one\n\xff\n", "line 2: not UTF-8; save the list as UTF-8 text, not compressed"),
        (gzip.compress(b"one\n"), "line 1: not UTF-8; save the list as UTF-8 text, not compressed"),
        (b"a" * 20_000, "line 1: longer than 16,384 bytes; write one value a line"),
        ("# nothing\n", "has no entry; check its address, or remove it from the config"),
    ],
)
def test_error_names_the_list_and_the_line(tmp_path, content, message):
    path = write(tmp_path / "list.txt", content)
    with pytest.raises(ConfigError) as caught:
        list(read_values(path, (), parse_word))
    assert str(caught.value) == f"{path} {message}"


def test_locations_are_paths_https_addresses_s3_uris_and_this_machine():
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
