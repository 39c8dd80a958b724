"""A web of real pictures on loopback: each host is an address of 127/8; some answer late, some never.

python -m benchmarks.inputs.image_server FOLDER      serves what `make_pictures` wrote there, and prints its port
"""

import asyncio
import io
import json
import mmap
import multiprocessing
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

HOSTS = 500
LATE_SECONDS = 4.0


def address(host: int) -> str:
    """A host's address: all of 127/8 is this machine."""
    return f"127.0.{1 + host // 250}.{1 + host % 250}"


def is_late(host: int) -> bool:
    """2 hosts of 80 answer late."""
    return host % 80 in (7, 47)


def is_dead(host: int) -> bool:
    """2 hosts of 80 take a request and never answer."""
    return host % 80 in (27, 67)


def photographs() -> list[Image.Image]:
    """Three real photographs that packages bring along."""
    import matplotlib as mpl
    import sklearn.datasets

    images = Path(sklearn.datasets.__file__).parent / "images"
    hopper = Path(mpl.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    paths = [images / "china.jpg", images / "flower.jpg", hopper]
    return [Image.open(path).convert("RGB") for path in paths]


def picture(photos: list[Image.Image], number: int) -> bytes:
    """A JPEG of 500 to 1,250 pixels width: four crops side by side, some mirrored, none enlarged."""
    chance = np.random.default_rng(number)
    width = int(chance.integers(250, 626))
    height = int(width * chance.uniform(0.55, 0.68))
    whole = Image.new("RGB", (2 * width, 2 * height))
    for place in range(4):
        photo = photos[int(chance.integers(3))]
        w, h = min(width, photo.width), min(height, photo.height)
        x, y = int(chance.integers(photo.width - w + 1)), int(chance.integers(photo.height - h + 1))
        crop = photo.crop((x, y, x + w, y + h))
        if (w, h) != (width, height):  # the portrait photograph is 512 wide
            crop = photo.crop((0, 0, photo.width, photo.height)).resize((width, height), Image.Resampling.LANCZOS)
        if chance.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        whole.paste(crop, (place % 2 * width, place // 2 * height))
    sink = io.BytesIO()
    whole.save(sink, "JPEG", quality=int(chance.integers(75, 93)))
    return sink.getvalue()


def _some(numbers: range) -> list[bytes]:
    photos = photographs()
    return [picture(photos, number) for number in numbers]


def make_pictures(folder: Path, number: int) -> None:
    """Write so many different pictures on end, and where each lies."""
    ranges = [range(start, min(start + 50, number)) for start in range(0, number, 50)]
    places, at = [], 0
    with multiprocessing.get_context("spawn").Pool() as pool, (folder / "pictures").open("wb") as file:
        for found in pool.imap(_some, ranges):
            for data in found:
                file.write(data)
                places.append((at, len(data)))
                at += len(data)
    (folder / "places.json").write_text(json.dumps(places))


class Site(asyncio.Protocol):
    """One connection: one request, one answer."""

    pictures: mmap.mmap
    places: list[list[int]]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.asked = transport, b""
        here = transport.get_extra_info("sockname")[0].split(".")
        self.host = (int(here[2]) - 1) * 250 + int(here[3]) - 1
        if not transport.get_extra_info("peername")[0].startswith("127."):
            transport.abort()

    def data_received(self, data: bytes) -> None:
        self.asked += data
        if b"\r\n\r\n" not in self.asked or is_dead(self.host):
            return
        if is_late(self.host):
            asyncio.get_running_loop().call_later(LATE_SECONDS, self.answer)
        else:
            self.answer()

    def answer(self) -> None:
        """The picture that is asked for."""
        path = self.asked.split(b" ", 2)[1]
        body, status = b"", b"404 Not Found"
        if path.endswith(b".jpg"):
            at, size = self.places[int(path[1:-4])]
            body, status = self.pictures[at : at + size], b"200 OK"
        head = b"HTTP/1.1 %b\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        self.transport.write(head % (status, len(body)) + body)
        self.transport.close()


async def serve(folder: Path) -> None:
    """Serve until the process that started us is gone."""
    Site.places = json.loads((folder / "places.json").read_text())
    with (folder / "pictures").open("rb") as file:
        Site.pictures = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    server = await asyncio.get_running_loop().create_server(Site, "0.0.0.0", 0, backlog=2048)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    parent = os.getppid()
    while os.getppid() == parent:
        await asyncio.sleep(0.5)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
