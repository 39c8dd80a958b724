"""Checks of the store with a small S3 server that ignores conditions and has a wrong clock."""

import time
from email.utils import formatdate

import pytest

from dataops.store import FolderStore, open_store
from plugins.doctor import store as store_checks
from tests.servers.loopback import Handler, serving


class CarelessS3(Handler):
    """An S3 server that ignores all conditions of a request, and whose clock can be wrong."""

    protocol_version = "HTTP/1.1"

    def date_time_string(self, timestamp=None):
        return formatdate(time.time() + self.server.ahead_s, usegmt=True)

    def do_PUT(self):
        if "aws-chunked" in self.headers.get("Content-Encoding", ""):
            while self.rfile.readline().strip() != b"0":
                pass
            while self.rfile.readline().strip():
                pass
        else:
            self.read_body()
        self.answer()

    def do_POST(self):  # deletion of many
        self.read_body()
        self.answer(200, b"<DeleteResult></DeleteResult>")

    def do_GET(self):
        self.answer(200, b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")

    def do_HEAD(self):
        self.answer()

    def do_DELETE(self):
        self.answer(204)


@pytest.fixture
def careless(monkeypatch):
    with serving(CarelessS3, ahead_s=0.0) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        for name, value in (("ACCESS_KEY_ID", "k"), ("SECRET_ACCESS_KEY", "s"), ("DEFAULT_REGION", "us-east-1")):
            monkeypatch.setenv(f"AWS_{name}", value)
        open_store.cache_clear() if hasattr(open_store, "cache_clear") else None
        yield server


def test_check_one_winner_finds_a_server_that_ignores_if_none_match(careless):
    check = store_checks.check_one_winner(open_store("s3://bucket/prefix"))
    assert (check.ok, check.severity) == (False, "error")
    assert "ignores `If-None-Match: *`" in check.detail
    assert "SeaweedFS" in check.remedy


def test_check_one_winner_keeps_the_probes_of_other_processes(tmp_path):
    store = FolderStore(tmp_path)
    store.put("_probe/another", b"x")
    assert store_checks.check_one_winner(store).ok
    assert store.names("") == ["_probe/another"]
    store.delete(["_probe/another"])
    assert store_checks.check_one_winner(store).ok
    assert list(tmp_path.iterdir()) == []


def test_check_clock_warns_of_a_difference(careless):
    assert store_checks.check_clock("s3://bucket/prefix").ok
    for ahead_s, word in ((-300, "ahead of"), (300, "behind")):
        careless.ahead_s = ahead_s
        check = store_checks.check_clock("s3://bucket/prefix")
        assert (check.ok, check.severity) == (False, "warning")
        assert word in check.detail
        assert "timedatectl" in check.remedy
