"""A server of images on loopback on which each path has one behaviour, most of them bad."""

import io
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image, ImageDraw


def picture(
    number: int, kind: str = "PNG", size: tuple[int, int] = (80, 60), mode: str = "RGB", **options: object
) -> bytes:
    image = Image.new("RGB", size, (number * 37 % 256, number * 91 % 256, number * 53 % 256))
    draw = ImageDraw.Draw(image)
    draw.ellipse((5 + number % 20, 5, 40, 20 + number % 30), fill=(255 - number % 200, number % 256, 77))
    draw.line((0, number % 60, 79, 59 - number % 50), fill=(0, 0, 0), width=3)
    out = io.BytesIO()
    image.convert(mode).save(out, kind, **options)
    return out.getvalue()


def png_header(width: int, height: int, depth: int = 8) -> bytes:
    """Return a PNG with a header of a size and nearly no data."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    body = zlib.compress(bytes(width * 3 * (depth // 8) + 1) * height if width * height < 10**6 else bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


class Site(BaseHTTPRequestHandler):
    """A server on which each path has one behaviour."""

    seen: Counter[str]
    agents: set[str]

    def do_GET(self) -> None:
        self.seen[self.path] += 1
        self.agents.add(self.headers["User-Agent"])
        path = self.path.split("?")[0]
        behaviour = getattr(self, path.strip("/").split("/")[0].replace("-", "_"), None)
        with suppress(ConnectionError, TimeoutError):  # the client closes the connection in most cases
            behaviour() if behaviour else self.answer(b"", 404)

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def number(self) -> int:
        return int(self.path.rpartition("/")[2].split(".")[0])

    def pictures(self) -> None:
        # sometimes slow, so that rows arrive in another order
        time.sleep(0.02 if self.number() % 7 == 0 else 0)
        self.answer(picture(self.number()), ETag=f'"{self.number()}"')

    def kinds(self) -> None:
        kind, mode = self.path.split("/")[2:4]
        self.answer(picture(self.number(), kind, mode=mode))

    def sideways(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = self.number()
        self.answer(picture(self.number(), "JPEG", size=(60, 80), exif=exif.tobytes()))

    def junk(self) -> None:
        jpeg = picture(self.number(), "JPEG")
        self.answer(jpeg[:20] + b"junk" + bytes(100_000) + jpeg[20:])

    def moved(self) -> None:
        self.answer(b"", 302, Location=f"/pictures/{self.number()}.png")

    def go(self) -> None:
        self.answer(b"", 301, Location=self.path.split("?", 1)[1])

    def loop(self) -> None:
        self.answer(b"", 302, Location="/loop")

    def broken(self) -> None:
        self.answer(b"", 503)

    def html(self) -> None:
        self.answer(b"<!DOCTYPE html><title>Not here</title>", Content_Type="image/png")

    def svg(self) -> None:
        self.answer(b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', Content_Type="image/svg+xml")

    def drip(self) -> None:
        self.send_response(200)
        self.end_headers()
        for byte in picture(1):
            self.wfile.write(bytes([byte]))
            time.sleep(0.2)

    def drip_headers(self) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 500:
            self.wfile.write(bytes([byte]))
            time.sleep(0.2)

    def endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(bytes(1 << 16))

    def huge(self) -> None:
        self.answer(b"", Content_Length=str(10**10))

    def short(self) -> None:
        self.answer(picture(1), Content_Length="100000")
        self.close_connection = True

    def noai(self) -> None:
        self.answer(picture(1), X_Robots_Tag="noai, noimageai")

    def noai_to_us(self) -> None:
        self.answer(picture(1), X_Robots_Tag="pairmill: none")

    def noai_to_others(self) -> None:
        self.answer(picture(900), X_Robots_Tag="otherbot: noai, noindex")

    def truncated(self) -> None:
        data = picture(1, "JPEG", (400, 300))
        self.answer(data[: len(data) // 2])

    def bomb(self) -> None:
        self.answer(png_header(60_000, 60_000))

    def deep(self) -> None:
        sink = io.BytesIO()
        Image.effect_noise((80, 60), 60).convert("I;16").point(lambda level: level * 256).save(sink, "PNG")
        self.answer(sink.getvalue())

    def tiny(self) -> None:
        self.answer(picture(1, size=(5, 5)))

    def long(self) -> None:
        self.answer(picture(1, size=(1000, 20)))

    def zipped(self) -> None:
        self.answer(zlib.compress(picture(1)), Content_Encoding="deflate")

    def secret(self) -> None:
        self.answer(picture(2))

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serve_images(site: type[Site] = Site) -> Iterator[ThreadingHTTPServer]:
    site.seen, site.agents = Counter(), set()
    with ThreadingHTTPServer(("127.0.0.1", 0), site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
