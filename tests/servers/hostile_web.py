"""Serves many hosts on one loopback port, each hostile or with an opt-out, and logs the requests."""

import gzip
import io
import struct
import time
import zlib
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from tests.servers import loopback
from tests.servers.loopback import serving
from tests.servers.signatures import Guard

TDM = "/.well-known/tdmrep.json"
DATE = "Wed, 03 Dec 2035 13:09:53 GMT"
Answer = bytes | tuple[int, dict[str, str], bytes] | Callable[["Handler"], None]


def picture(seed, kind="PNG", size=(80, 60), mode="RGB", **options):
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST).convert(mode).save(out, kind, **options)
    return out.getvalue()


def with_chunk(name, content):
    data = picture(1)
    chunk = struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return data[:33] + chunk + data[33:]


XMP = (
    b'XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description '
    b'plus:DataMining="http://ns.useplus.org/ldf/vocab/DMI-PROHIBITED-AIMLTRAINING"/></x:xmpmeta>'
)
JUMBF = (
    b"\0\0\0\x8cjumb\0\0\0\x28jumdcbor" + bytes(12) + b"\x03c2pa.training-mining\0\0\0\0\x5ccbor"
    b"\xa1gentries\xa1pc2pa.ai_training\xa1cusejnotAllowed"
)


def text(*lines):
    return "\n".join(lines).encode()


def moved(target):
    return 301, {"Location": target}, b""


def drip(handler):
    handler.send_response(200)
    handler.end_headers()
    for _ in range(600):
        handler.wfile.write(b"#")
        time.sleep(0.1)


def endless_headers(handler):
    handler.send_response(200)
    for number in range(100_000):
        handler.wfile.write(f"X-{number}: {'x' * 8000}\r\n".encode())


def busy_once(handler):
    if handler.web.times(handler.host, handler.path) == 1:
        handler.respond((429, {"Retry-After": "1"}, b""))
    else:
        handler.respond(picture(3))


def versioned(handler):
    """Answer the second request for a path differently: /2… has changed, /gone… is gone, /says-no… has an opt-out."""
    again = handler.web.times(handler.host, handler.path) > 1
    etag = '"new"' if again and handler.path.startswith("/2") else '"old"'
    if again and handler.path.startswith("/gone"):
        handler.respond((410, {}, b""))
    elif handler.headers["If-None-Match"] == etag:
        handler.respond((304, {"X-Robots-Tag": "noai"} if handler.path.startswith("/says-no") else {}, b""))
    else:
        handler.respond((200, {"ETag": etag}, picture(len(etag) + again)))


def hosts():
    """Return the answers by host and path; "*" is any other path. Missing paths are a 404."""
    shut = text("User-agent: *", "Disallow: /")
    padding = b"#" * 99 + b"\n"
    one = {"*": picture(1)}
    bomb = gzip.compress(bytes(50_000_000))
    frames = {"save_all": True, "append_images": [Image.new("RGB", (80, 60), "red")]}
    return {
        "plain.test": {
            **one,
            "/avif.avif": picture(2, "AVIF"),
            "/moving.gif": picture(2, "GIF", **frames),
            "/moving.webp": picture(2, "WEBP", **frames),
            "/to-shut.png": moved("http://shut.test/1.png"),
            "/to-noai.png": moved("http://tdmrep.test/1.png"),
            "/to-loopback.png": moved("http://127.0.0.1:{port}/secret.png"),
            "/gzip-bomb.png": (200, {"Content-Encoding": "gzip"}, bomb),
            "/gzip.png": bomb[:10_000],
            "/headers.png": endless_headers,
        },
        "signed.test": {**one, "/moved.png": moved("http://also-signed.test/1.png")},
        "also-signed.test": one,
        "shut.test": {**one, "/robots.txt": shut},
        "partly.test": {**one, "/robots.txt": text("User-agent: *", "Disallow: /private/", "Allow: /private/ok")},
        "ours.test": {**one, "/robots.txt": text("User-agent: *", "Disallow: /", "User-agent: pairmill", "Allow: /")},
        "forbidden.test": {**one, "/robots.txt": (403, {}, shut)},
        "broken.test": {**one, "/robots.txt": (503, {}, b"")},
        "moved-robots.test": {
            **one,
            **{f"/{n}": moved(f"/{n + 1}") for n in range(1, 5)},
            "/robots.txt": moved("/1"),
            "/5": shut,
        },
        "circling-robots.test": {**one, "/robots.txt": moved("/robots.txt")},
        "long-robots.test": {**one, "/robots.txt": shut + b"\n" + padding * 6_000},
        "too-long-robots.test": {**one, "/robots.txt": padding * 6_000 + shut},
        "drip-robots.test": {**one, "/robots.txt": drip},
        "delay.test": {**one, "/robots.txt": text("User-agent: *", "Crawl-delay: 0.3")},
        "long-delay.test": {**one, "/robots.txt": text("User-agent: *", "Crawl-delay: 60")},
        "tdmrep.test": {**one, TDM: b'[{"location": "/free/*", "tdm-reservation": 0}, '
                                    b'{"location": "/", "tdm-reservation": 1, "tdm-policy": "https://a.test/"}]'},
        "aitxt.test": {**one, "/ai.txt": text("User-Agent: *", "Disallow: *.png", "Allow: /")},
        "odd-tdmrep.test": {**one, TDM: '[{"location": "/", "tdm-reservation": 1},]'.encode("utf-16")},
        "odd-tag.test": {"*": (200, {"X-Robots-Tag": f"unavailable_after: {DATE}, noai"}, picture(1))},
        "their-tag.test": {"*": (200, {"X-Robots-Tag": "googlebot: noindex"}, picture(1))},
        "versioned.test": {"*": versioned},
        "busy-once.test": {"*": busy_once},
        "busy.test": {"*": (429, {"Retry-After": "3600"}, b"")},
    }  # fmt: skip


@dataclass
class Web:
    """The answers of the server, and the log of its requests."""

    port: int
    answers: dict[str, dict[str, Answer]]
    address: str = "127.0.0.1"
    log: list[tuple[float, str, str]] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)
    guard: Guard | None = None
    """Refuses the requests that are not signed; None: no request needs a signature."""

    def connect_to(self):
        return {host: f"{self.address}:{self.port}" for host in self.answers}

    def paths(self):
        """Return the requested paths of each host, in order."""
        found = defaultdict(list)
        for _, host, path in self.log:
            found[host].append(path)
        return dict(found)

    def times(self, host, path):
        return sum(1 for _, h, p in self.log if (h, p) == (host, path))


class Handler(loopback.Handler):
    @property
    def web(self):
        return self.server.web

    @property
    def host(self):
        return self.headers["Host"].partition(":")[0]

    def do_GET(self):
        self.web.log.append((time.monotonic(), self.host, self.path))
        self.web.agents.add(self.headers["User-Agent"])
        if self.web.guard and (status := self.web.guard.check(self.headers)) != 200:
            return self.respond((status, {}, b""))
        known = self.web.answers.get(self.host, {})
        is_file = self.path in ("/robots.txt", TDM, "/ai.txt")
        found = known.get(self.path) or (None if is_file else known.get("*")) or (404, {}, b"")
        with suppress(ConnectionError, TimeoutError):
            found(self) if callable(found) else self.respond(found)
        return None

    def respond(self, found):
        status, headers, body = (200, {}, found) if isinstance(found, bytes) else found
        self.answer(
            status, body, **{name: text.replace("{port}", str(self.web.port)) for name, text in headers.items()}
        )


@contextmanager
def served(answers=None, host="127.0.0.1", tls=None):
    """Serve other answers by host and path, or those of `hosts`."""
    web = Web(0, answers or hosts(), host)
    with serving(Handler, host, tls, web=web) as server:
        web.port = server.server_port
        yield web
