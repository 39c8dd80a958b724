"""Runs the download stage, with its worker processes, over images that end the process that decodes them."""

import io
import os
import signal
from collections import Counter

import pytest
from PIL import Image

from dataops.schema import uid
from dataops.shards.tar import read_samples
from dataops.snapshot import Counts, read_parts
from dataops.store import FolderStore
from tasks.download import stage as download
from tasks.download.config import DownloadConfig, RetryConfig
from tasks.download.stage import DOWNLOAD
from tasks.engine.context import Context
from tasks.engine.stage import make, plan
from tests.downloads import filtered
from tests.servers.hostile_web import picture
from tests.servers.image_site import Site, serve_images

pytestmark = pytest.mark.timeout(300)


def download_with_killers(draft, task):
    """Download a shard in a worker whose decoder dies of a few images; three signals as of three defects."""
    from tasks.download import resizers
    from tasks.download.worker import download_shard

    killers = {picture(5): signal.SIGKILL, picture(9): signal.SIGSEGV, picture(16): signal.SIGABRT}
    resize = resizers.CheckedResizer.resize

    def resize_or_die(self, stream, data, header):
        if data in killers:
            os.kill(os.getpid(), killers[data])
        return resize(self, stream, data, header)

    resizers.CheckedResizer.resize = resize_or_die
    try:
        return download_shard(draft, task)
    finally:
        resizers.CheckedResizer.resize = resize


class BombSite(Site):
    """A server with one more path: the image of 64 million pixels of the issue."""

    def transparent(self):
        image = io.BytesIO()
        Image.new("RGBA", (8000, 8000), (200, 30, 60, 128)).save(image, "WEBP", lossless=True, quality=0, method=0)
        self.answer(200, image.getvalue())


@pytest.fixture
def site():
    with serve_images(BombSite) as server:
        yield server


def count_requests():
    return Counter({path: number for path, number in BombSite.seen.items() if "robots" not in path and "pict" in path})


def plan_download(store, urls, port, **options):
    address = {"site.test": f"127.0.0.1:{port}"}
    options = {"image_size": 32, "host_rate": 0, "timeout": 60} | options
    config = DownloadConfig(connect_to=address, retry=RetryConfig(rounds=0), **options)
    return plan(DOWNLOAD, config, 0, [filtered(store, urls, rows_a_part=20)])


def test_row_that_ends_its_decoder_is_dropped_and_all_others_are_kept(tmp_path, site, monkeypatch):
    monkeypatch.setattr(download, "download_shard", download_with_killers)
    store = FolderStore(tmp_path / "store")
    urls = [f"http://site.test/pictures/{number}.png" for number in range(20)]
    planned = plan_download(store, urls, site.server_port, shard_size=10)
    context = Context(store, tmp_path, workers=2)
    manifest = make(planned, context)
    assert manifest.counts == Counts(input=20, kept=17, dropped={"worker_died": 3})
    dropped = read_parts(store, manifest, "dropped-").to_pylist()
    assert {row["url"]: (row["status"], row["error_message"].rpartition(" ")[2]) for row in dropped} == {
        urls[5]: ("failed_to_resize", "SIGKILL"),
        urls[9]: ("failed_to_resize", "SIGSEGV"),
        urls[16]: ("failed_to_resize", "SIGABRT"),
    }
    assert {row["url"] for row in read_parts(store, manifest).to_pylist()} == {*urls} - {row["url"] for row in dropped}
    assert count_requests() == Counter(f"/pictures/{number}.png" for number in range(20)), "no image is fetched twice"
    assert make(planned, context).content_digest == manifest.content_digest
    assert count_requests().total() == 20


def test_transparent_image_of_64_million_pixels_is_kept_within_the_memory_of_a_worker(tmp_path, site):
    store = FolderStore(tmp_path / "store")
    urls = ["http://site.test/transparent", "http://site.test/pictures/1.png"]
    manifest = make(plan_download(store, urls, site.server_port), Context(store, tmp_path, workers=1))
    assert manifest.counts == Counts(input=2, kept=2)
    sizes = {row["url"]: (row["original_width"], row["width"]) for row in read_parts(store, manifest).to_pylist()}
    assert sizes[urls[0]] == (8000, 32)
    shard = manifest.named("", ".tar")[0]
    with store.open(manifest.path(shard.name)) as file:
        images = {key: members["jpg"] for key, members in read_samples(file, shard.name)}
    middle = Image.open(io.BytesIO(images[uid(urls[0], f"caption of {urls[0]}")])).getpixel((16, 16))
    assert middle == pytest.approx((227, 142, 157), abs=4), "half white"
