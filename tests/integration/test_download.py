"""Runs the download stage against a server that misbehaves in every way that the stage must handle."""

import io
import json
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from dataops.errors import StorageError
from dataops.schema import uid
from dataops.shards.tar import read_samples
from dataops.snapshot import Counts, Draft, Manifest, read_parts
from dataops.store import FolderStore
from tasks.curate.stage import CURATE, CurateConfig
from tasks.download.config import DownloadConfig, RetryConfig
from tasks.download.rounds import ShardTask, cut_parts
from tasks.download.stage import DOWNLOAD, download_shard
from tasks.engine.context import Context
from tasks.engine.map_parts import map_parts
from tasks.engine.stage import Plan, make, plan
from tasks.pack.config import PackConfig
from tasks.pack.stage import PACK
from tests.downloads import filtered

pytestmark = pytest.mark.timeout(120)


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
        self.answer(png_header(64, 64, depth=16))

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


@pytest.fixture
def site() -> Iterator[ThreadingHTTPServer]:
    Site.seen, Site.agents = Counter(), set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def tls_port(tmp_path: Path) -> Iterator[int]:
    """Start a server with an untrusted certificate, and yield its port."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tls.test")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    certificate = builder.sign(key, hashes.SHA256())
    pem = certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "tls.pem").write_bytes(pem)
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "tls.pem")

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # the client ends the handshake, as expected

    server = Quiet(("127.0.0.1", 0), Site)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_each_misbehaviour_of_a_server_is_a_row_with_its_drop_reason(
    tmp_path: Path,
    site: ThreadingHTTPServer,
    tls_port: int,
    one_thread: Executor,
    capfd: pytest.CaptureFixture[str],
) -> None:
    port = site.server_port
    expected = {
        "/pictures/1.png": None,
        "/pictures/2.png?a=1&b=%20ü ": None,
        "/kinds/JPEG/CMYK/3": None,
        "/kinds/WEBP/RGBA/4": None,
        "/kinds/GIF/P/5": None,
        "/kinds/PNG/LA/6": None,
        "/kinds/BMP/RGB/7": None,
        "/sideways/6": None,
        "/sideways/8": None,
        "/junk/10": None,
        "/kinds/TIFF/RGB/8": "unsupported_format",
        "/moved/9": None,
        "/noai_to_others": None,
        "/missing": "http_404",
        "http://busy.test/broken": "http_503",  # a separate host, whose pause would delay others
        "/html": "not_an_image",
        "/svg": "unsupported_format",
        "/drip": "timeout",
        "/drip-headers": "timeout",
        "/loop": "redirect_loop",
        f"/go?http://127.0.0.1:{port}/secret": "private_address",
        f"/go?http://localhost:{port}/secret": "private_address",
        "/go?http://169.254.169.254/latest/meta-data/": "private_address",
        "/go?file:///etc/passwd": "bad_url",
        "/endless": "too_large",
        "/huge": "too_large",
        "/short": "incomplete",
        "/noai": "opt_out",
        "/noai_to_us": "opt_out",
        "/truncated": "truncated",
        "/bomb": "too_many_pixels",
        "/deep": "unsupported_format",
        "/tiny": "too_small",
        "/long": "aspect_ratio",
        "/zipped": "bad_response",
        f"http://127.0.0.1:{port}/secret": "private_address",
        f"http://2130706433:{port}/secret": "private_address",
        f"http://[::ffff:127.0.0.1]:{port}/secret": "private_address",
        f"http://user:word@site.test:{port}/secret": "bad_url",
        "http://nowhere.invalid/1.png": "dns",
        "https://tls.test/secret": "tls",
        "http://closed.test/1.png": "connect",
    }
    urls = {(path if path.startswith("http") else f"http://site.test{path}"): why for path, why in expected.items()}
    store = FolderStore(tmp_path / "store")
    source = filtered(store, list(urls), rows_a_part=17)
    config = DownloadConfig(
        image_size=64,
        min_image_size=16,
        timeout=1.5,
        retries=1,
        max_bytes=300_000,
        retry=RetryConfig(rounds=0),
        contact="https://example.org/bot",
        connect_to={
            "site.test": f"127.0.0.1:{port}",
            "busy.test": f"127.0.0.1:{port}",
            "tls.test": f"127.0.0.1:{tls_port}",
            "closed.test": "127.0.0.1:9",
        },
    )
    manifest = make(plan(DOWNLOAD, config, 0, [source]), Context(store, tmp_path, workers=1, pool=one_thread))

    dropped = {row["url"]: row for row in read_parts(store, manifest, "dropped-").to_pylist()}
    assert {url: row["drop_reason"] for url, row in dropped.items()} == {u: why for u, why in urls.items() if why}
    assert all(r["drop_stage"] == "download" and r["status"] and r["error_message"] for r in dropped.values())
    kept = read_parts(store, manifest).to_pylist()
    assert {row["url"] for row in kept} == {url for url, why in urls.items() if why is None}
    assert all(row["key"] == row["uid"] for row in kept)
    assert all(row["status"] == "success" and len(row["sha256"]) == 64 and row["width"] == 85 for row in kept)
    assert all((row["original_width"], row["original_height"], row["height"]) == (80, 60, 64) for row in kept)
    assert manifest.counts.input == len(urls)

    assert Site.seen["/secret"] == 0
    assert Site.seen["/missing"] == 1  # no retry of a permanent failure
    assert Site.seen["/broken"] == 2
    assert Site.seen["/loop"] == 6
    assert Site.agents == {"pairmill/0.2 (+https://example.org/bot)"}

    evidence = {row["url"]: row for row in read_parts(store, manifest, "evidence-").to_pylist()}
    assert evidence.keys() == urls.keys()
    assert evidence["http://site.test/pictures/1.png"]["etag"] == '"1"'
    assert evidence["http://site.test/moved/9"]["final_url"] == "http://site.test/pictures/9.png"
    noai, noimageai = evidence["http://site.test/noai"]["opt_out"]
    assert (noai["signal"], noai["detail"], noai["where"]) == ("noai", "noai", "http://site.test/noai")
    assert noimageai["signal"] == "noimageai"
    assert noai["when"] == evidence["http://site.test/noai"]["fetched_at"]
    assert evidence["http://site.test/noai"]["bytes"] is None  # its body was not read
    shown = {url for url, row in evidence.items() if row["preview"]}
    assert shown == {row["url"] for row in kept} | {"http://site.test/tiny", "http://site.test/long"}
    assert evidence["http://site.test/missing"]["http_status"] == 404
    assert capfd.readouterr().out == ""


def test_download_gives_the_same_bytes_for_any_workers_and_threads_and_after_a_crash(
    tmp_path: Path, site: ThreadingHTTPServer, one_thread: Executor
) -> None:
    urls = [f"http://site.test/{'missing' if n % 10 == 3 else 'pictures'}/{n}.png" for n in range(90)]

    def planned_in(store: FolderStore, threads: int) -> Plan:
        connect_to = {"site.test": f"127.0.0.1:{site.server_port}"}
        config = DownloadConfig(image_size=48, shard_size=40, threads=threads, connect_to=connect_to, host_rate=0)
        return plan(DOWNLOAD, config, 0, [filtered(store, urls, rows_a_part=50)])

    store_a, store_b = FolderStore(tmp_path / "a"), FolderStore(tmp_path / "b")
    a = make(planned_in(store_a, threads=16), Context(store_a, tmp_path, workers=2))
    assert a.counts == Counts(input=90, kept=81, dropped={"http_404": 9})
    assert [p.name for p in a.named("", ".tar")] == ["00000.tar", "00001.tar", "00002.tar"]
    keys = [row["key"] for row in read_parts(store_a, a).to_pylist()]
    assert sorted(keys) == sorted(uid(url, f"caption of {url}") for url in urls if "missing" not in url)

    planned = planned_in(store_b, threads=3)
    draft = Draft(store_b, "download", planned.key)
    here = Context(store_b, tmp_path, workers=1, pool=one_thread)
    cuts = cut_parts(planned.upstream[0], 40)
    shards = [ShardTask(index, rows, planned.config) for index, rows in enumerate(cuts)]  # pyright: ignore
    map_parts(download_shard, [shards[0], shards[2]], draft, here)
    Site.seen.clear()  # "killed" here: two of three shards are there, and no manifest
    b = make(planned, here)
    assert sum(number for path, number in Site.seen.items() if path.startswith(("/pictures", "/missing"))) == 40

    assert (a.key, a.content_digest) == (b.key, b.content_digest)
    for part in a.parts:
        if not part.name.startswith("evidence-"):
            assert store_a.read(a.path(part.name)) == store_b.read(b.path(part.name)), part.name
    _curate_and_pack(Context(store_a, tmp_path, workers=1, pool=one_thread), a)


def _curate_and_pack(context: Context, downloaded: Manifest) -> None:
    curated = make(plan(CURATE, CurateConfig(), 0, [downloaded]), context)
    assert curated.counts == Counts(input=81, kept=81)
    packed = make(plan(PACK, PackConfig(shard_size=50), 0, [curated, downloaded]), context)
    assert packed.facts["samples"] == 81
    rows = read_parts(context.store, packed).to_pylist()
    raw = {}
    for part in downloaded.named("", ".tar"):
        with context.store.open(downloaded.path(part.name)) as file:
            raw |= dict(read_samples(file, part.name))
    for part in packed.named("", ".tar"):
        with context.store.open(packed.path(part.name)) as file:
            samples = dict(read_samples(file, part.name))
        mine = [row for row in rows if row["shard"] == part.name]
        assert list(samples) == [row["key"] for row in mine]
        for row in mine:
            members = samples[row["key"]]
            assert members["jpg"] == raw[row["key"]]["jpg"]
            assert members["txt"].decode() == row["caption"]
            assert json.loads(members["json"]) == row
            assert json.loads(raw[row["key"]]["json"])["uid"] == row["uid"]


def test_download_finds_rows_and_errors_that_img2dataset_swallows(
    tmp_path: Path, site: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """img2dataset prints an unforeseen error and continues without the row."""
    from tasks.download import resizers, shard_writer
    from tasks.download import worker as fetch_shard

    monkeypatch.setattr("urllib.request._opener", None)  # so that the opener of this test is removed at its end
    store = FolderStore(tmp_path)
    source = filtered(store, [f"http://site.test/pictures/{n}.png" for n in range(8)], rows_a_part=8)
    config = DownloadConfig(image_size=32, connect_to={"site.test": f"127.0.0.1:{site.server_port}"})
    shard = ShardTask(0, cut_parts(source, 8)[0], config)

    resize = resizers.Resizer.__call__

    def loses_one(self: resizers.Resizer, stream: io.BytesIO, boxes: object = None) -> object:
        if stream.getvalue() == picture(3):
            raise RuntimeError("unforeseen")
        return resize(self, stream, boxes)

    with monkeypatch.context() as patch:
        patch.setattr(resizers.Resizer, "__call__", loses_one)
        record = fetch_shard.download_shard(Draft(store, "download", "lost"), shard)
    assert record.counts == Counts(input=8, kept=7, dropped={"lost": 1})
    uids = {n: uid(url, f"caption of {url}") for n in range(8) if (url := f"http://site.test/pictures/{n}.png")}
    with store.open("download/lost/00000.tar") as file:
        keys = [key for key, _ in read_samples(file, "00000.tar")]
    assert keys == sorted(uids[n] for n in range(8) if n != 3)
    assert capfd.readouterr().out == ""

    def full_disk(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shard_writer.ShardWriter, "write", full_disk)
    with pytest.raises(StorageError, match="No space left on device"):
        fetch_shard.download_shard(Draft(store, "download", "full"), shard)
    assert store.names("download/full") == []
