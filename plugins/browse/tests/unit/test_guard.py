import asyncio

import pytest

from plugins.browse.guard import HEADERS, Guard

HOST, TOKEN, PORT = "127.0.0.1:8123", "the-token", 8123


async def application(scope, receive, send):
    headers = [(b"content-type", b"text/plain"), (b"x-content-type-options", b"other"), (b"cache-control", b"public")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"content"})


GUARD = Guard(application, PORT, TOKEN)


def ask(query="", method="GET", **headers):
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request"}

    given = {"host": HOST} | {name.replace("_", "-"): value for name, value in headers.items()}
    scope = {
        "type": "http", "method": method, "path": "/", "query_string": query.encode("latin-1"),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in given.items()],
    }  # fmt: skip
    asyncio.run(GUARD(scope, receive, send))
    got = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], got, sent[1]["body"]


def cookie():
    return ask(f"token={TOKEN}&q=dog")[1]["set-cookie"].partition(";")[0]


def test_token_gives_a_cookie_that_opens_the_pages():
    status, headers, body = ask(f"token={TOKEN}&q=%22%3E%3Cscript%3E")
    assert status == 200
    value, *attributes = headers["set-cookie"].split("; ")
    assert value.startswith(f"pairmill-browse-{PORT}=")
    assert sorted(attributes) == ["HttpOnly", "Path=/", "SameSite=strict"]
    assert TOKEN not in headers["set-cookie"] + body.decode()
    assert b"<script" not in body
    assert ask(cookie=cookie())[::2] == (200, b"content")
    assert ask(cookie=f"other=1; {cookie()}")[0] == 200


@pytest.mark.parametrize("given", ["", "pairmill-browse-8123=x", "a;;=b", "é"])
def test_without_the_cookie_nothing_is_shown(given):
    assert ask(cookie=given)[::2] == (401, b"Open the URL that `pairmill browse` printed: it has a token.")


@pytest.mark.parametrize("token", ["", "the-toke", "%C3%A9", "the-token%00"])
def test_other_tokens_are_refused(token):
    status, headers, body = ask(f"token={token}&x=1", cookie="a=b")
    assert status == 401
    assert "set-cookie" not in headers
    assert b"content" not in body


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8124", "127.0.0.1.evil.example:8123", ""])
def test_other_host_names_are_refused(host):
    assert ask(host=host, cookie=cookie())[0] == 421
    assert ask(f"token={TOKEN}", host=host)[0] == 421


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {"origin": "http://evil.example"}, 403),
        ("GET", {"sec_fetch_site": "cross-site"}, 403),
        ("GET", {"sec_fetch_site": "same-site", "sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"}, 403),
        ("GET", {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}, 200),
        ("GET", {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"}, 403),
        ("GET", {"sec_fetch_site": "same-origin"}, 200),
        ("POST", {}, 403),
        ("POST", {"origin": "null"}, 403),
        ("POST", {"origin": "http://localhost:8123"}, 403),
        ("POST", {"origin": f"http://{HOST}"}, 200),
        ("POST", {"origin": f"http://{HOST}", "sec_fetch_site": "same-site"}, 403),
        ("POST", {"origin": f"http://{HOST}", "content_length": "999999999"}, 413),
        ("POST", {"origin": f"http://{HOST}", "transfer_encoding": "chunked"}, 413),
        ("PUT", {"origin": f"http://{HOST}"}, 405),
        ("TRACE", {}, 405),
    ],
)
def test_requests_of_other_sites_are_refused(method, headers, status):
    assert ask(method=method, cookie=cookie(), **headers)[0] == status


@pytest.mark.parametrize("given", [{}, {"host": "evil.example"}, {"origin": "null"}])
def test_each_response_has_the_headers(given):
    got = ask(cookie=cookie(), **given)[1]
    assert {name: got[name.lower()] for name in HEADERS} == HEADERS
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
