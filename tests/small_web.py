"""A small web of the core's own tests: pages in WARC files, a site that serves their images, and evaluation sets.

    <directory>/site/        images that `serve_site` serves
    <directory>/archive/     small-00000.warc.gz ...: the pages
    <directory>/suite/       evaluation sets of images that no page has
    <directory>/suite.toml   their suite

The bytes depend only on the code and the version of Pillow.
"""

import gzip
import io
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler
from itertools import product
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw

from tasks.evaluate.suite_writer import write_classification, write_shard
from tests.archived_images import http, record
from tests.servers.loopback import serving

HOST = "shapes.pairmill.test"
COLOURS = ("red", "green", "blue", "black", "orange", "purple", "brown", "grey", "pink", "navy")
SHAPES = ("circle", "square", "triangle", "ring", "cross", "ladder", "window", "arrow")
PLACES = ("in a field of flowers", "on the wall of an old house")
WARC_FILES = 4
PAGES = 8
ODDITIES = """
<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" alt="A picture that is inside of the page">
<img src="ftp://shapes.pairmill.test/a.png" alt="A picture that is on another kind of server">
<img src="/img/0.png">
<img src="/img/missing.png" alt="A picture that has been missing for a long time">
<img src="/img/text.png" alt="A picture that is only a text about the weather">
<img src="http://10.0.0.1/inside.png" alt="A picture that is inside of the private network">
<img src="/reserved/0.png" alt="A picture that nobody may use for the training of models">
<img src="/img/copy.png" alt="The same picture once more under another name">
"""
RUSSIAN = '<img src="/img/house.png" alt="Красный дом стоит на поле у леса рядом с рекой">'
RESERVED = '<meta name="robots" content="noai"><img src="/img/1.png" alt="A picture on a page that opted out">'
SUITE = """
name = "shapes"
[[task]]
name = "shapes-seen"
kind = "classification"
root = "shapes-seen"
split = "test"
[[task]]
name = "shapes-retrieval"
kind = "retrieval"
root = "shapes-retrieval"
split = "test"
"""


@dataclass(frozen=True)
class SmallWeb:
    """Paths of the web's files."""

    directory: Path

    @property
    def site(self):
        return self.directory / "site"

    @property
    def archive(self):
        return self.directory / "archive"

    @property
    def suite_root(self):
        return self.directory / "suite"

    @property
    def suite(self):
        return self.directory / "suite.toml"


def build_small_web(directory):
    """Write 160 pairs on 8 pages, which have some that must be dropped too, and two evaluation sets."""
    web = SmallWeb(directory)
    for folder in (web.archive, web.site / "img", web.site / "reserved"):
        folder.mkdir(parents=True)
    things = [(colour, shape, place) for place, colour, shape in product(PLACES, COLOURS, SHAPES)]
    tags = []
    for number, (colour, shape, place) in enumerate(things):
        (web.site / "img" / f"{number}.png").write_bytes(
            draw(colour, shape, number, side=48 if number % 10 == 9 else 72)
        )
        tags.append(f'<img src="/img/{number}.png" alt="{_describe(colour, shape)} {place}">')
    (web.site / "reserved" / "0.png").write_bytes(draw("red", "ring", 1001))
    (web.site / "img" / "house.png").write_bytes(draw("red", "cross", 1002))
    (web.site / "img" / "copy.png").write_bytes((web.site / "img" / "2.png").read_bytes())
    (web.site / "img" / "text.png").write_text("It will rain tomorrow.\n")
    pages = ["".join(tags[page::PAGES]) for page in range(PAGES)]
    pages[0] += ODDITIES + tags[0]  # and a pair twice
    pages += [RESERVED, RUSSIAN]
    for file in range(WARC_FILES):
        records = [_archive_page(number, body) for number, body in enumerate(pages) if number % WARC_FILES == file]
        (web.archive / f"small-{file:05d}.warc.gz").write_bytes(b"".join(records))
    _write_suite(web)
    return web


def _describe(colour, shape):
    return f"A picture of {'an' if colour[0] in 'aeiou' else 'a'} {colour} {shape}"


def _archive_page(number, body):
    language = "ru" if body == RUSSIAN else "en"
    page = f'<!doctype html><html lang="{language}"><title>Shapes</title>{body}</html>'.encode()
    content = http(page, Content_Type="text/html; charset=utf-8")
    return gzip.compress(record(f"http://{HOST}/pages/{number}.html", content), mtime=0)


def _write_suite(web):
    names = [_describe(colour, shape) for colour, shape in product(COLOURS[:4], SHAPES)]
    pngs = [draw(*thing, 500 + n) for n, thing in enumerate(product(COLOURS[:4], SHAPES))]
    write_classification(web.suite_root / "shapes-seen", names, ("{c}", "{c} on paper"), pngs, range(len(pngs)))
    members = []
    for number, (name, png) in enumerate(zip(names, pngs, strict=True)):
        members += [(f"{number:06d}.png", png), (f"{number:06d}.txt", f"{name}\n{name} on paper".encode())]
    write_shard(web.suite_root / "shapes-retrieval", "retrieval", members)
    web.suite.write_text(SUITE)


def draw(colour, shape, seed, side=72):
    """Return a PNG: a shape before a mosaic by which all images differ also in their grey values."""
    random = Random(seed)
    image = Image.new("RGB", (72, 72), "white")
    pen = ImageDraw.Draw(image)
    for x, y in product(range(0, 72, 12), repeat=2):
        light = random.randrange(40, 256)
        pen.rectangle((x, y, x + 11, y + 11), fill=(light, light, random.randrange(40, 256)))
    x, y = random.randrange(4, 20), random.randrange(4, 20)
    box = (x, y, x + 44, y + 44)
    match shape:
        case "circle":
            pen.ellipse(box, fill=colour)
        case "square":
            pen.rectangle(box, fill=colour)
        case "triangle":
            pen.polygon([(x, y + 44), (x + 44, y + 44), (x + 22, y)], fill=colour)
        case "ring":
            pen.ellipse(box, outline=colour, width=9)
        case "window":
            pen.rectangle(box, outline=colour, width=9)
        case "cross":
            pen.line((x, y + 22, x + 44, y + 22), colour, 11)
            pen.line((x + 22, y, x + 22, y + 44), colour, 11)
        case "ladder":
            for step in range(0, 44, 11):
                pen.line((x, y + step, x + 44, y + step), colour, 5)
        case _:
            pen.polygon([(x, y + 14), (x + 22, y + 14), (x + 22, y), (x + 44, y + 22), (x + 22, y + 44)], fill=colour)
    out = io.BytesIO()
    image.resize((side, side)).save(out, "PNG")
    return out.getvalue()


class _SiteHandler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def end_headers(self):
        if self.path.startswith("/reserved/"):
            self.send_header("X-Robots-Tag", "noai")
        super().end_headers()

    def log_message(self, format, *args):
        pass


@contextmanager
def serve_site(web):
    """Serve the images on loopback, and yield the server's IP address and port."""
    with serving(partial(_SiteHandler, directory=str(web.site))) as server:
        yield f"127.0.0.1:{server.server_port}"
