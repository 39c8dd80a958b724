import socket
import sqlite3
import threading
import time
from dataclasses import replace
from urllib.parse import urlunsplit

import pytest

from tasks.download.config import DownloadConfig
from tasks.download.hooks import ShardHook
from tasks.download.opener import Evidence, Scope, Start, make_opener
from tasks.web.address_policy import AddressResolver, is_public
from tasks.web.fetch_error import FetchError
from tasks.web.host_state import HostState
from tasks.web.request import split_url


@pytest.mark.parametrize("address", ["93.184.215.14", "8.8.8.8", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"])
def test_is_public_accepts_public_addresses(address):
    assert is_public(address)


NOT_PUBLIC = """
    127.0.0.1 127.8.8.8 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 100.64.0.1 100.100.100.200
    0.0.0.0 0.1.2.3 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255 192.0.0.192 192.0.2.1 198.18.0.1 198.51.100.1
    203.0.113.1 168.63.129.16 192.88.99.1 :: ::1 ::127.0.0.1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:8.8.8.8 64:ff9b::7f00:1
    64:ff9b::808:808 64:ff9b:1::1 2002:7f00:1:: 2002:808:808::1 2001:0:7f00::1 fe80::1 fe80::1%eth0 fec0::1 fc00::1
    fd00:ec2::254 ff02::1 2001:db8::1 100::1 100:0:0:1::1 3fff::1 3fff:fff:ffff::1 5f00::1 4000::1 1::1 2001:2::1 2001:10::1
    2001:1ff::1 f000::1 fe00::1 64:ff9b:2::1 ::ffff:0:808:808 0:0:1::1 192.0.0.8 192.0.0.170 198.19.255.255 203.0.113.255
    nonsense"""


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
def test_is_public_refuses_other_addresses(address):
    assert not is_public(address)


def test_resolve_refuses_hosts_with_private_addresses():
    addresses = AddressResolver({"site.test": ("127.0.0.1", 8123), "six.test": ("::1", 80)})
    assert [target[1] for target in addresses.resolve("site.test", 443)[1]] == [("127.0.0.1", 8123)]
    assert addresses.resolve("six.test", 443)[0] is None
    for host in ("127.0.0.1", "localhost", "2130706433", "0x7f.1", "017700000001", "127.1", "::ffff:127.0.0.1"):
        refusal, targets = addresses.resolve(host, 80)
        assert refusal[0] in ("private_address", "dns"), host
        assert targets == []
    assert addresses.resolve("8.8.8.8", 80) == (None, [(2, ("8.8.8.8", 80))])


def test_resolve_drops_private_addresses_among_public_ones(monkeypatch):
    mixed = [(2, 1, 6, "", ("10.0.0.1", 80)), (2, 1, 6, "", ("8.8.8.8", 80))]
    monkeypatch.setattr("socket.getaddrinfo", lambda *a, **k: mixed)
    assert AddressResolver({}).resolve("mixed.test", 80) == (None, [(2, ("8.8.8.8", 80))])


@pytest.mark.parametrize(
    ("url", "wire"),
    [
        ("http://a.test/x.png", "http://a.test/x.png"),
        ("HTTPS://A.test:444/a b/ü.png?q=ö&r=%20#frag", "https://a.test:444/a%20b/%C3%BC.png?q=%C3%B6&r=%20"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://[2606:2800::1]:8080/x", "http://[2606:2800::1]:8080/x"),
        ("http://a.test./x", "http://a.test/x"),
        ("http://a.test/x\r\nHost: b", "http://a.test/xHost:%20b"),
        ("http://a.test:80", "http://a.test/"),
        ("http://straße.test\\x", "http://xn--strae-oqa.test/x"),
    ],
)
def test_split_url_encodes_urls(url, wire):
    assert urlunsplit(split_url(url)) == wire


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://a.test/x", "data:image/png,x", "http:///x", "http://u:p@a.test/", "http://a.test:99999/",
     "http://[::1/x", "http://a b/", "http://" + "a" * 70 + ".test/", "javascript:alert(1)", "", "x.png"],
)  # fmt: skip
def test_split_url_refuses_other_text(url):
    with pytest.raises(FetchError, match=r"^bad_url: "):
        split_url(url)


@pytest.mark.parametrize(
    ("error", "message", "requests"),
    [
        (FetchError("timeout", "again"), "timeout: again", 1),
        (FetchError("http_404", "again"), "http_404: again", 1),
        (FetchError("http_503", "again"), "http_503: again", 3),
        (IndexError("list index out of range"), "other: IndexError", 1),
    ],
)
def test_opener_retries_only_temporary_failures_other_than_timeouts(tmp_path, monkeypatch, error, message, requests):
    opener, checks = make_opener(DownloadConfig(), HostState(tmp_path)), []

    def check(parts):
        checks.append(parts)
        raise error

    monkeypatch.setattr(opener.rules, "check", check)
    for _ in range(3):  # as img2dataset's retries do
        with pytest.raises(FetchError, match=f"^{message}$"):
            opener.open("http://a.test/1.png")
    assert len(checks) == requests


def test_shard_and_no_row_fails_where_the_state_of_hosts_cannot_be_written(tmp_path, monkeypatch):
    state = HostState(tmp_path)
    opener = make_opener(DownloadConfig(), state)
    monkeypatch.setattr(opener.rules, "check", lambda _: state.execute("INSERT INTO turns VALUES (1)"))
    with pytest.raises(sqlite3.Error) as raised:
        opener.open("http://a.test/1.png")
    assert opener.failures == [raised.value]


class Recorder(ShardHook):
    """Records the calls, and drops a body."""

    def __init__(self):
        self.calls = []

    def check(self, body):
        if body == b"bad":
            raise FetchError("forbidden", "by a list")

    def keep(self, url, body, headers, *, new):
        self.calls.append(f"keep {url}")

    def failed(self, url):
        self.calls.append(f"failed {url}")


@pytest.mark.parametrize("erases", [True, False])
def test_what_a_hook_drops_is_kept_by_no_other_and_may_leave_no_evidence(tmp_path, monkeypatch, erases):
    monkeypatch.setattr("tasks.download.opener.erased_reasons", lambda: {"forbidden"} if erases else set())
    bodies = iter([b"bad", b"\x89PNG\r\n\x1a\n good"])
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            for body in bodies:
                sock, _ = listener.accept()
                with sock:
                    sock.recv(65_536)
                    sock.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body)

        threading.Thread(target=answer, daemon=True).start()
        config = DownloadConfig(connect_to={"a.test": f"127.0.0.1:{listener.getsockname()[1]}"})
        recorder, other = Recorder(), Recorder()
        opener = make_opener(config, HostState(tmp_path), hooks=[recorder, other])
        monkeypatch.setattr(opener.rules, "check", lambda parts: (0.0, []))
        urls = ["http://a.test/bad.png", "http://a.test/good.png"]
        with pytest.raises(FetchError, match=r"^forbidden: by a list$"):
            opener.open(urls[0])
        assert opener.open(urls[1]).read().endswith(b"good")
    assert recorder.calls == other.calls == [f"failed {urls[0]}", f"keep {urls[1]}"]
    assert (opener.evidence[urls[0]] == Evidence()) is erases
    assert opener.evidence[urls[1]].http_status == 200


@pytest.mark.parametrize(
    ("answer", "delay", "rows", "wait"),
    [
        (1.2, 0.0, 500, 0.3),  # by four requests at a time
        (1.2, 50.0, 500, 50.0),
        (0.0, 1.0, 121, 1.0),
        (0.0, 1.0, 120, None),
        (1.2, 0.0, 10, None),
        (0.0, 0.0, 1600, None),
    ],
)
def test_rows_of_a_host_that_would_take_over_two_minutes_are_handed_on_once(
    tmp_path, monkeypatch, answer, delay, rows, wait
):
    url, config = "http://late.test/1.png", DownloadConfig(connect_to={"late.test": "127.0.0.1:1"})
    scope = Scope(frozenset({"late.test"}), {"late.test": rows})
    opener = make_opener(config, HostState(tmp_path), scope=scope)
    monkeypatch.setattr(opener.rules, "check", lambda parts: (delay, []))
    if answer:
        with opener.pace.turn("late.test"):
            time.sleep(answer)
    with pytest.raises(FetchError, match="^handed_on: " if wait else "^connect: "):
        opener.open(url)
    assert [wait <= start.wait < wait + 25 for start in opener.handed.values()] == ([True] if wait else [])
    opener.scope = replace(scope, starts={url: Start(url, wait=wait or 1.0)})
    with pytest.raises(FetchError, match="^handed_on: " if wait else "^connect: "):
        opener.open(url)  # in the same shard
    later = make_opener(config, HostState(tmp_path), scope=opener.scope)
    monkeypatch.setattr(later.rules, "check", opener.rules.check)
    with pytest.raises(FetchError, match=r"^connect: "):
        later.open(url)
