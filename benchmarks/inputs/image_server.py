"""Serve images on loopback: each host is an IP address of 127/8; some hosts respond late, some never."""

import asyncio
import json
import mmap
import multiprocessing
from contextlib import contextmanager

from benchmarks.inputs.images import load_photographs, make_jpeg

HOSTS = 2500
LATE_SECONDS = 4.0


def host_address(host):
    """Return the IP address of a host: all of 127/8 is this machine."""
    return f"127.0.{1 + host // 250}.{1 + host % 250}"


def is_late(host):
    """Return whether a host responds late, as 2 hosts of 80 do."""
    return host % 80 in (7, 47)


def is_dead(host):
    """Return whether a host never responds, as 2 hosts of 80 do."""
    return host % 80 in (27, 67)


def _make_batch(numbers):
    photos = load_photographs()
    return [make_jpeg(photos, number) for number in numbers]


def write_photographs(folder, number):
    """Write `number` different crops of photographs, as many processes as there are cores make them."""
    ranges = [range(start, min(start + 50, number)) for start in range(0, number, 50)]
    with multiprocessing.get_context("spawn").Pool() as pool:
        write_images(folder, (data for batch in pool.imap(_make_batch, ranges) for data in batch))


def write_images(folder, images):
    """Write images to one file, and their offsets to another."""
    spans, at = [], 0
    with (folder / "images").open("wb") as file:
        for data in images:
            spans.append((at, file.write(data)))
            at += len(data)
    (folder / "places.json").write_text(json.dumps(spans))


@contextmanager
def run_server(folder):
    """Serve the images of a folder from a process of its own during the block; yield the port."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(folder, sender), daemon=True)
    process.start()
    try:
        yield receiver.recv()
    finally:
        process.kill()
        process.join()


def _run(folder, sink):
    asyncio.run(serve(folder, sink))


class ImageServer(asyncio.Protocol):
    """Handles one connection: one request, one response."""

    images: mmap.mmap
    spans: list[list[int]]

    def connection_made(self, transport):
        self.transport, self.request = transport, b""
        local = transport.get_extra_info("sockname")[0].split(".")
        self.host = (int(local[2]) - 1) * 250 + int(local[3]) - 1
        if not transport.get_extra_info("peername")[0].startswith("127."):
            transport.abort()

    def data_received(self, data):
        self.request += data
        if b"\r\n\r\n" not in self.request or is_dead(self.host):
            return
        if is_late(self.host):
            asyncio.get_running_loop().call_later(LATE_SECONDS, self.respond)
        else:
            self.respond()

    def respond(self):
        """Send the requested image."""
        path = self.request.split(b" ", 2)[1]
        body, status = b"", b"404 Not Found"
        if path.endswith(b".jpg"):
            at, size = self.spans[int(path[1:-4])]
            body, status = self.images[at : at + size], b"200 OK"
        head = b"HTTP/1.1 %b\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        self.transport.write(head % (status, len(body)) + body)
        self.transport.close()


async def serve(folder, sink):
    """Send the port, and serve until this process is ended."""
    ImageServer.spans = json.loads((folder / "places.json").read_text())
    with (folder / "images").open("rb") as file:
        ImageServer.images = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    server = await asyncio.get_running_loop().create_server(ImageServer, "0.0.0.0", 0, backlog=2048)
    sink.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()
