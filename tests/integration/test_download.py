"""Runs the download stage against a server that misbehaves in every way that the stage must handle."""

import shutil
import ssl
import subprocess
from dataclasses import replace

import pytest

from dataops.errors import StorageError
from dataops.schema import uid
from dataops.shards.tar import read_samples
from dataops.snapshot import Counts, Draft, read_parts
from dataops.store import FolderStore
from tasks.download.config import DownloadConfig, RetryConfig
from tasks.download.rounds import ShardCut, ShardTask
from tasks.download.stage import DOWNLOAD
from tasks.engine.context import Context
from tasks.engine.stage import make, plan
from tests.downloads import cut_parts, filtered
from tests.inline_executor import InlineExecutor
from tests.servers.hostile_web import picture
from tests.servers.image_site import Site, serve_images
from tests.servers.loopback import serving


@pytest.fixture
def site():
    with serve_images() as server:
        yield server


@pytest.fixture
def tls_port(tmp_path):
    """Start a server with an untrusted certificate, and yield its port."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=tls.test -keyout {key} -out {certificate}"
    subprocess.run(command.split(), check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(Site, tls=context) as server:
        yield server.server_port


def test_each_misbehaviour_of_a_server_is_a_row_with_its_drop_reason(
    tmp_path,
    site,
    tls_port,
    one_thread,
    capfd,
):
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
        "/missing": "http_404",
        "http://busy.test/broken": "http_503",  # a separate host, whose pause would delay others
        "/html": "not_an_image",
        "/svg": "unsupported_format",
        "/loop": "redirect_loop",
        f"/go?http://127.0.0.1:{port}/secret": "private_address",
        f"/go?http://localhost:{port}/secret": "private_address",
        "/go?http://169.254.169.254/latest/meta-data/": "private_address",
        "/go?file:///etc/passwd": "bad_url",
        "/noai": "opt_out",
        "/truncated": "truncated",
        "/bomb": "too_many_pixels",
        "/tiny": "too_small",
        "/long": "aspect_ratio",
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
    from tasks.download.resizers import KEPT

    shown = {url for url, row in evidence.items() if row["preview"]}
    of_dropped = shown - {row["url"] for row in kept}
    assert of_dropped == {"http://site.test/tiny", "http://site.test/long"}
    assert len(shown - of_dropped) == min(len(kept), KEPT)
    assert evidence["http://site.test/missing"]["http_status"] == 404
    assert capfd.readouterr().out == ""


def test_download_gives_the_same_bytes_for_any_workers_and_threads_and_after_a_crash(tmp_path, site, one_thread):
    urls = [f"http://site.test/{'missing' if n % 10 == 3 else 'pictures'}/{n}.png" for n in range(90)]

    def planned_in(store, threads):
        connect_to = {"site.test": f"127.0.0.1:{site.server_port}"}
        config = DownloadConfig(image_size=48, shard_size=40, threads=threads, connect_to=connect_to, host_rate=0)
        return plan(DOWNLOAD, config, 0, [filtered(store, urls, rows_a_part=50)])

    store_a, store_b = FolderStore(tmp_path / "a"), FolderStore(tmp_path / "b")
    a = make(planned_in(store_a, threads=16), Context(store_a, tmp_path, workers=2))
    assert a.counts == Counts(input=90, kept=81, dropped={"http_404": 9})
    assert [p.name for p in a.named("", ".tar")] == ["00000.tar", "00001.tar", "00002.tar"]
    keys = [row["key"] for row in read_parts(store_a, a).to_pylist()]
    assert sorted(keys) == sorted(uid(url, f"caption of {url}") for url in urls if "missing" not in url)

    planned, fetched = planned_in(store_b, threads=3), []

    def kill(task):
        if isinstance(task, ShardTask):
            fetched.append(task.cut.number)
            if len(fetched) == 3:
                raise KeyboardInterrupt

    here = Context(store_b, tmp_path / "b", workers=1, pool=InlineExecutor(kill))
    with pytest.raises(KeyboardInterrupt):
        make(planned, here)
    Site.seen.clear()  # two of three shards are there, and no manifest
    b = make(planned, replace(here, pool=one_thread))
    assert sum(number for path, number in Site.seen.items() if path.startswith(("/pictures", "/missing"))) == 30

    assert (a.key, a.content_digest) == (b.key, b.content_digest)
    for part in a.parts:
        if not part.name.startswith("evidence-"):
            assert store_a.read(a.path(part.name)) == store_b.read(b.path(part.name)), part.name


def test_download_finds_rows_and_errors_that_img2dataset_swallows(tmp_path, site, monkeypatch, capfd):
    """img2dataset prints an unforeseen error and continues without the row."""
    from tasks.download import resizers
    from tasks.download import worker as fetch_shard

    store = FolderStore(tmp_path)
    source = filtered(store, [f"http://site.test/pictures/{n}.png" for n in range(8)], rows_a_part=8)
    config = DownloadConfig(image_size=32, connect_to={"site.test": f"127.0.0.1:{site.server_port}"})
    shard = ShardTask(ShardCut(0, cut_parts(source, 8)[0]), config)

    resize = resizers.Resizer.__call__

    def loses_one(self, stream, boxes=None):
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

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetch_shard.ShardWriter, "write", full_disk)
    with pytest.raises(StorageError, match="No space left on device"):
        fetch_shard.download_shard(Draft(store, "download", "full"), shard)
    assert store.names("download/full") == []
