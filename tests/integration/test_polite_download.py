"""Checks that a download obeys the rules of hosts: the row of each case, and no forbidden request."""

import socket
import subprocess
import sys
import threading
from collections import defaultdict

import pytest

from dataops.home import CHECKOUT
from tasks.download.host_turns import HostPace
from tests.downloads import fetched
from tests.servers.hostile_web import TDM, served

FILES = ["/robots.txt", TDM, "/ai.txt"]
EXPECTED = {
    "http://plain.test/1.png": None,
    "http://plain.test/avif.avif": None,
    "http://plain.test/moving.gif": None,
    "http://plain.test/moving.webp": None,
    "http://plain.test/to-shut.png": "robots",
    "http://plain.test/to-noai.png": "opt_out",
    "http://plain.test/to-loopback.png": "private_address",
    "http://plain.test/gzip-bomb.png": "bad_response",
    "http://plain.test/gzip.png": "not_an_image",
    "http://plain.test/headers.png": "bad_response",
    "http://shut.test/2.png": "robots",
    "http://partly.test/private/1.png": "robots",
    "http://partly.test/private/ok.png": None,
    "http://partly.test/3.png": None,
    "http://ours.test/1.png": None,
    "http://forbidden.test/1.png": None,
    "http://broken.test/1.png": "robots",
    "http://moved-robots.test/1.png": "robots",
    "http://circling-robots.test/1.png": None,
    "http://long-robots.test/1.png": "robots",
    "http://too-long-robots.test/1.png": None,
    "http://drip-robots.test/1.png": "timeout",
    "http://drip-robots.test/2.png": "timeout",
    "http://delay.test/1.png": None,
    "http://delay.test/2.png": None,
    "http://long-delay.test/1.png": "robots",
    "http://tdmrep.test/1.png": "opt_out",
    "http://tdmrep.test/free/1.png": None,
    "http://aitxt.test/1.png": "opt_out",
    "http://aitxt.test/1.gif": None,
    "http://odd-tdmrep.test/1.png": "opt_out",
    "http://odd-tag.test/1.png": "opt_out",
    "http://their-tag.test/1.png": None,
    "http://busy-once.test/1.png": None,
    "http://busy.test/1.png": "http_429",
    "http://busy.test/2.png": "http_429",
    "http://busy.test/3.png": "http_429",
    "http://unknown.test/1.png": "dns",
}


@pytest.fixture
def web():
    with served() as web:
        yield web


@pytest.fixture
def intervals(monkeypatch):
    """Return the interval in seconds of each turn, by host."""
    kept = defaultdict(list)
    turn = HostPace.turn

    def noted(self, name, interval=0.0):
        assert threading.current_thread().name == "fetch", "img2dataset has taken threads of its own"
        kept[name].append(interval)
        return turn(self, name, interval)

    monkeypatch.setattr(HostPace, "turn", noted)
    return kept


def test_each_host_gets_its_drop_reason_and_no_forbidden_request(tmp_path, web, intervals):
    contact = "https://example.org/bot"
    options = {"contact": contact, "connect_to": web.connect_to(), "host_rate": 0}
    drips = [
        url for url, reason in EXPECTED.items() if reason == "timeout"
    ]  # all others have time, on a busy machine too
    reasons, evidence = fetched(tmp_path / "drips", drips, timeout=0.5, **options)
    others, other_evidence = fetched(tmp_path / "others", [url for url in EXPECTED if url not in drips], **options)
    assert reasons | others == EXPECTED
    evidence |= other_evidence
    assert web.agents == {f"pairmill/0.2 (+{contact})"}

    paths = web.paths()
    for host in ("shut", "broken", "long-robots", "drip-robots", "long-delay"):
        assert paths[f"{host}.test"] == ["/robots.txt"], host
    assert paths["moved-robots.test"] == ["/robots.txt", "/1", "/2", "/3", "/4", "/5"]
    for host in ("forbidden", "ours"):
        assert paths[f"{host}.test"] == [*FILES, "/1.png"], host
    assert sorted(paths["partly.test"]) == sorted([*FILES, "/private/ok.png", "/3.png"])
    assert sorted(paths["tdmrep.test"]) == sorted([*FILES, "/free/1.png"])
    assert sorted(paths["aitxt.test"]) == sorted([*FILES, "/1.gif"])
    assert sorted(paths["busy.test"][:3]) == sorted(FILES)  # two threads read one each of the latter two
    assert 1 <= len(paths["busy.test"][3:]) <= 3  # those that were under way together, and none again
    assert "127.0.0.1" not in paths
    assert paths.pop("circling-robots.test") == ["/robots.txt"] * 6 + [*FILES[1:], "/1.png"]
    again = {host for host, requested in paths.items() if len(requested) != len(set(requested))}
    assert again == {"busy-once.test"}

    assert len(paths["delay.test"]) == 5
    assert intervals["delay.test"] == [0, 0.3, 0.3, 0.3, 0.3]  # from the second request on it is known
    times = [at for at, host, _ in web.log if host == "delay.test"]
    assert times[-1] - times[0] > 0.5, "they start 0.3 s apart; some reach a busy server later"
    first, second = (at for at, host, path in web.log if (host, path) == ("busy-once.test", "/1.png"))
    assert second - first >= 1

    requested = {url for url, row in evidence.items() if row["fetched_at"]}
    assert not requested & {f"http://{host}.test/1.png" for host in ("shut", "broken", "tdmrep", "aitxt", "unknown")}
    assert requested >= {url for url, reason in EXPECTED.items() if reason is None}
    assert evidence["http://plain.test/to-shut.png"]["final_url"] == "http://shut.test/1.png"


ONE_OF_MANY = """
import sys
from pathlib import Path
from tasks.download.config import DownloadConfig
from tasks.download.opener import make_opener
from tasks.web.host_state import HostState

folder, address, *urls = sys.argv[1:]
opener = make_opener(DownloadConfig(connect_to={"ours.test": address, "shut.test": address}), HostState(Path(folder)))
for url in urls:
    try:
        opener.open(url)
    except Exception as error:
        print(error)
"""


def test_processes_of_a_run_request_the_files_of_a_host_once(tmp_path, web):
    urls = [f"http://{host}.test/{number}.png" for number in range(3) for host in ("ours", "shut")]
    command = [sys.executable, "-c", ONE_OF_MANY, str(tmp_path), f"127.0.0.1:{web.port}", *urls]
    processes = [subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        output, _ = process.communicate()
        assert output.splitlines() == ["robots: robots.txt disallows it"] * 3
    paths = web.paths()
    assert paths["shut.test"] == ["/robots.txt"]
    assert sorted(paths["ours.test"]) == sorted([*FILES, *["/0.png", "/1.png", "/2.png"] * 3])


@pytest.fixture
def connected(monkeypatch):
    """Return the addresses that are connected to. Each connection is refused: nothing leaves this machine."""
    addresses = []

    def connect(self, address):
        addresses.append(address)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr("socket.socket.connect", connect)
    monkeypatch.setattr("tasks.download.opener.open_dns", lambda *_: None)  # which makes a cache of its own
    return addresses


def resolving(monkeypatch, *answers):
    """Return the names that are resolved; they get the addresses in turn, and then always the last one."""
    names = []

    def answer(host, *args, **kinds):
        names.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers[min(len(names), len(answers)) - 1], 0))]

    monkeypatch.setattr("socket.getaddrinfo", answer)
    return names


def test_hosts_with_private_addresses_get_no_connection(tmp_path, connected, monkeypatch):
    for number, address in enumerate(("127.0.0.1", "10.1.2.3", "169.254.169.254", "100.64.0.1", "::ffff:127.0.0.1")):
        resolving(monkeypatch, address)
        reasons, _ = fetched(tmp_path / str(number), ["http://inner.test/1.png"], contact="mailto:a@b.test")
        assert reasons == {"http://inner.test/1.png": "private_address"}
    assert connected == []


def test_a_host_that_changes_its_address_after_the_check_gets_no_connection(tmp_path, connected, monkeypatch):
    names = resolving(monkeypatch, "8.8.8.8", "127.0.0.1")
    urls = [f"http://rebind.test/{number}.png" for number in range(4)]
    reasons, _ = fetched(tmp_path, urls, contact="mailto:a@b.test")
    assert set(reasons.values()) == {"connect"}
    assert names == ["rebind.test"]
    assert set(connected) == {("8.8.8.8", 80)}


def test_without_a_contact_only_hosts_in_connect_to_get_requests(tmp_path, connected, monkeypatch):
    resolving(monkeypatch, "8.8.8.8")
    urls = ["http://a.test/1.png", "http://b.test/1.png"]
    reasons, _ = fetched(tmp_path, urls, connect_to={"a.test": "127.0.0.1:9"})
    assert reasons == {urls[0]: "connect", urls[1]: "no_contact"}
    assert set(connected) == {("127.0.0.1", 9)}
