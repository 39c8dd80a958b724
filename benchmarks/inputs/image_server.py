"""Serve real images on loopback: each host is an IP address of 127/8; some hosts respond late, some never.

`python -m benchmarks.inputs.image_server FOLDER` serves the files that `write_images` wrote, and prints its port.
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


def host_address(host: int) -> str:
    """Return the IP address of a host: all of 127/8 is this machine."""
    return f"127.0.{1 + host // 250}.{1 + host % 250}"


def is_late(host: int) -> bool:
    """Return whether a host responds late, as 2 hosts of 80 do."""
    return host % 80 in (7, 47)


def is_dead(host: int) -> bool:
    """Return whether a host never responds, as 2 hosts of 80 do."""
    return host % 80 in (27, 67)


def load_photographs() -> list[Image.Image]:
    """Return three real photographs that are parts of packages."""
    import matplotlib as mpl
    import sklearn.datasets

    images = Path(sklearn.datasets.__file__).parent / "images"
    hopper = Path(mpl.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    paths = [images / "china.jpg", images / "flower.jpg", hopper]
    return [Image.open(path).convert("RGB") for path in paths]


def make_jpeg(photos: list[Image.Image], number: int) -> bytes:
    """Return a JPEG of 500 to 1,250 pixels width: a 2x2 grid of crops, some mirrored, none enlarged."""
    rng = np.random.default_rng(number)
    width = int(rng.integers(250, 626))
    height = int(width * rng.uniform(0.55, 0.68))
    whole = Image.new("RGB", (2 * width, 2 * height))
    for cell in range(4):
        photo = photos[int(rng.integers(3))]
        w, h = min(width, photo.width), min(height, photo.height)
        x, y = int(rng.integers(photo.width - w + 1)), int(rng.integers(photo.height - h + 1))
        crop = photo.crop((x, y, x + w, y + h))
        if (w, h) != (width, height):  # the portrait photograph is 512 wide
            crop = photo.crop((0, 0, photo.width, photo.height)).resize((width, height), Image.Resampling.LANCZOS)
        if rng.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        whole.paste(crop, (cell % 2 * width, cell // 2 * height))
    sink = io.BytesIO()
    whole.save(sink, "JPEG", quality=int(rng.integers(75, 93)))
    return sink.getvalue()


def _make_batch(numbers: range) -> list[bytes]:
    photos = load_photographs()
    return [make_jpeg(photos, number) for number in numbers]


def write_images(folder: Path, number: int) -> None:
    """Write `number` different images to one file, and their offsets to another."""
    ranges = [range(start, min(start + 50, number)) for start in range(0, number, 50)]
    spans, at = [], 0
    with multiprocessing.get_context("spawn").Pool() as pool, (folder / "pictures").open("wb") as file:
        for batch in pool.imap(_make_batch, ranges):
            for data in batch:
                file.write(data)
                spans.append((at, len(data)))
                at += len(data)
    (folder / "places.json").write_text(json.dumps(spans))


class ImageServer(asyncio.Protocol):
    """Handles one connection: one request, one response."""

    images: mmap.mmap
    spans: list[list[int]]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.request = transport, b""
        local = transport.get_extra_info("sockname")[0].split(".")
        self.host = (int(local[2]) - 1) * 250 + int(local[3]) - 1
        if not transport.get_extra_info("peername")[0].startswith("127."):
            transport.abort()

    def data_received(self, data: bytes) -> None:
        self.request += data
        if b"\r\n\r\n" not in self.request or is_dead(self.host):
            return
        if is_late(self.host):
            asyncio.get_running_loop().call_later(LATE_SECONDS, self.respond)
        else:
            self.respond()

    def respond(self) -> None:
        """Send the requested image."""
        path = self.request.split(b" ", 2)[1]
        body, status = b"", b"404 Not Found"
        if path.endswith(b".jpg"):
            at, size = self.spans[int(path[1:-4])]
            body, status = self.images[at : at + size], b"200 OK"
        head = b"HTTP/1.1 %b\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        self.transport.write(head % (status, len(body)) + body)
        self.transport.close()


async def serve(folder: Path) -> None:
    """Serve until the parent process has ended."""
    ImageServer.spans = json.loads((folder / "places.json").read_text())
    with (folder / "pictures").open("rb") as file:
        ImageServer.images = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    server = await asyncio.get_running_loop().create_server(ImageServer, "0.0.0.0", 0, backlog=2048)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    parent = os.getppid()
    while os.getppid() == parent:
        await asyncio.sleep(0.5)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
