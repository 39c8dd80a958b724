import http.client
import json
import time
from contextlib import closing
from itertools import pairwise

import pytest

from plugins.demo.server import running_server


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("server")
    (base / "secret.txt").write_text("secret")
    site = base / "site"
    for path, content in {
        "index.html": b"home",
        "food/index.html": b"food",
        "img/a b.png": b"\x89PNG",
        "img/moved.png": b"<p>moved",
        "members/x.webp": b"RIFF",
    }.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(content)
    (site / "link.txt").symlink_to(base / "secret.txt")
    rules = {
        "redirects": {"/old.png": "http://169.254.169.254/latest"},
        "content_types": {"/img/moved.png": "text/html"},
        "headers": {"/members/": {"X-Robots-Tag": "noai"}},
    }
    (site / "site-rules.json").write_text(json.dumps(rules))
    return site


@pytest.fixture(scope="module")
def connection(folder):
    with running_server(folder) as server, closing(http.client.HTTPConnection("127.0.0.1", server.port)) as client:
        yield client


def request(connection, path, method="GET"):
    connection.request(method, path)
    response = connection.getresponse()
    return response.status, dict(response.getheaders()), response.read()


@pytest.mark.parametrize(
    ("path", "status", "content_type", "body"),
    [
        ("/", 200, "text/html; charset=utf-8", b"home"),
        ("/food/", 200, "text/html; charset=utf-8", b"food"),
        ("/food/index.html?x=1#y", 200, "text/html; charset=utf-8", b"food"),
        ("/img/a%20b.png", 200, "image/png", b"\x89PNG"),
        ("/img/moved.png", 200, "text/html", b"<p>moved"),
        ("/members/x.webp", 200, "image/webp", b"RIFF"),
        ("/healthz", 200, "text/plain; charset=utf-8", b"ok\n"),
    ],
)
def test_files_have_their_content_types(connection, path, status, content_type, body):
    response = request(connection, path)
    assert (response[0], response[1]["Content-Type"], response[2]) == (status, content_type, body)


@pytest.mark.parametrize(
    "path",
    [
        "/none.png",
        "/site-rules.json",
        "/food/../site-rules.json",
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/img/..%2f..%2fsecret.txt",
        "//etc/hostname",
        "/link.txt",
        "/img/",
        "/a%00b",
        "/" + "x" * 5000,
    ],
)
def test_other_paths_are_not_found(connection, path):
    status, _, body = request(connection, path)
    assert status == 404
    assert b"secret" not in body


def test_redirects_and_headers_follow_the_rules(connection):
    status, headers, _ = request(connection, "/old.png")
    assert (status, headers["Location"]) == (302, "http://169.254.169.254/latest")
    assert request(connection, "/members/x.webp")[1]["X-Robots-Tag"] == "noai"
    assert "X-Robots-Tag" not in request(connection, "/")[1]


def test_one_connection_serves_many_requests_without_stalling(connection):
    request(connection, "/")
    used = connection.sock
    moments = []
    for _ in range(100):
        request(connection, "/")
        moments.append(time.monotonic())
    assert connection.sock is used
    # Nagle's algorithm and delayed ACKs would delay each response by 40 ms; a busy machine does not delay all of them.
    assert min(after - before for before, after in pairwise(moments[50:])) < 0.03
