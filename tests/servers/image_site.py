"""A server of images on loopback on which each path has one behaviour, most of them bad."""

import struct
import time
import zlib
from collections import Counter
from contextlib import contextmanager, suppress

from PIL import Image

from tests.image_files import png_chunk
from tests.servers.hostile_web import picture
from tests.servers.loopback import Handler, serving


def png_header(width, height, depth=8):
    """Return a PNG with a header of a size and nearly no data."""
    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    body = zlib.compress(bytes(width * 3 * (depth // 8) + 1) * height if width * height < 10**6 else bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")


class Site(Handler):
    """A server on which each path has one behaviour."""

    seen: Counter[str]
    agents: set[str]

    def do_GET(self):
        self.seen[self.path] += 1
        self.agents.add(self.headers["User-Agent"])
        path = self.path.split("?")[0]
        behaviour = getattr(self, path.strip("/").split("/")[0].replace("-", "_"), None)
        with suppress(ConnectionError, TimeoutError):  # the client closes the connection in most cases
            behaviour() if behaviour else self.answer(404)

    def number(self):
        return int(self.path.rpartition("/")[2].split(".")[0])

    def pictures(self):
        # sometimes slow, so that rows arrive in another order
        time.sleep(0.02 if self.number() % 7 == 0 else 0)
        self.answer(200, picture(self.number()), ETag=f'"{self.number()}"')

    def kinds(self):
        kind, mode = self.path.split("/")[2:4]
        self.answer(200, picture(self.number(), kind, mode=mode))

    def sideways(self):
        exif = Image.Exif()
        exif[0x0112] = self.number()
        self.answer(200, picture(self.number(), "JPEG", size=(60, 80), exif=exif.tobytes()))

    def junk(self):
        jpeg = picture(self.number(), "JPEG")
        self.answer(200, jpeg[:20] + b"junk" + bytes(100_000) + jpeg[20:])

    def moved(self):
        self.answer(302, b"", Location=f"/pictures/{self.number()}.png")

    def go(self):
        self.answer(301, b"", Location=self.path.split("?", 1)[1])

    def loop(self):
        self.answer(302, b"", Location="/loop")

    def broken(self):
        self.answer(503, b"")

    def html(self):
        self.answer(200, b"<!DOCTYPE html><title>Not here</title>", Content_Type="image/png")

    def svg(self):
        self.answer(
            200, b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', Content_Type="image/svg+xml"
        )

    def noai(self):
        self.answer(200, picture(1), X_Robots_Tag="noai, noimageai")

    def truncated(self):
        data = picture(1, "JPEG", (400, 300))
        self.answer(200, data[: len(data) // 2])

    def bomb(self):
        self.answer(200, png_header(60_000, 60_000))

    def tiny(self):
        self.answer(200, picture(1, size=(5, 5)))

    def long(self):
        self.answer(200, picture(1, size=(1000, 20)))

    def secret(self):
        self.answer(200, picture(2))


@contextmanager
def serve_images(site=Site):
    site.seen, site.agents = Counter(), set()
    with serving(site) as server:
        yield server
