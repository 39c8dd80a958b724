"""Nights of a dataset that grows: pages with pairs, their images on a server, and a run of each as a flow run does it."""

import html
import io
from collections.abc import Sequence
from random import Random

import pytest
from PIL import Image, ImageDraw

from dataops.errors import NothingLeft
from dataops.snapshot import read_parts
from dataops.store import FolderStore, open_store
from flows.config import validate_values
from flows.dataset_checks import check_kept
from flows.next_version import add_run
from flows.pipeline import PIPELINE
from flows.records import RunRecord, StageRun
from tasks.engine.stage import make, plan, reuse
from tests.archived_images import http, record, write_archive
from tests.inline_executor import inline_context
from tests.servers.hostile_web import served

HOST = "photos.test"
Night = Sequence[tuple[str, str]]


def drawing(seed):
    """Return an image whose perceptual hash differs from that of other seeds."""
    random, image = Random(seed), Image.new("RGB", (96, 72), "white")
    draw = ImageDraw.Draw(image)
    for _ in range(9):
        x, y, w, h = (random.randrange(size) for size in (80, 60, 40, 30))
        draw.rectangle((x, y, x + 8 + w, y + 8 + h), fill=tuple(random.randrange(256) for _ in range(3)))
    return image


def encoded(path):
    """Return the image of a path: /7.png; /7-again.png, the same bytes; /7-encoded.jpg, a near-duplicate."""
    image, out = drawing(int(path.strip("/").partition(".")[0].partition("-")[0])), io.BytesIO()
    if path.endswith(".jpg"):
        image.save(out, "JPEG", quality=95, subsampling=0)
    else:
        image.save(out, "PNG")
    return out.getvalue()


def answer(handler):
    handler.respond(
        (404, {}, b"") if "gone" in handler.path else (200, {"Content-Type": "image/png"}, encoded(handler.path))
    )


NIGHTS = tuple(
    [(f"http://{HOST}/{name}", f"A drawing called {name} of this night") for name in names.split()]
    for names in (
        "1.png 2.png 3.png 4.png 5.png 900-gone.png",
        "6.png 2.png 7.png 1-again.png 3-encoded.jpg 900-gone.png 8.png",
        "9.png 7.png 8-encoded.jpg 10.png 6-again.png 6.png 11.png",
        "1.png 9.png 900-gone.png 1-again.png",  # nothing new
        "12.png 10-encoded.jpg 12-encoded.jpg 13.png 3-encoded.jpg",
    )
)
ANSWERS = {HOST: {"*": answer, "/robots.txt": b"", "/ai.txt": b"", "/.well-known/tdmrep.json": b"[]"}}


@pytest.fixture(scope="module")
def web():
    """Serve ANSWERS."""
    with served(ANSWERS) as web:
        yield web


def configured(web, folder, **more):
    values = {
        "name": "nights",
        "store": {"uri": str(folder / "store")},
        "source": {"kind": "warc", "paths": [str(folder / "nights" / "*.warc")]},
        "filter": {"languages": []},
        "download": {"connect_to": web.connect_to(), "image_size": 64, "retries": 0, "host_rate": 0, "min_success": 0.1,
                     "retry": {"rounds": 0}},
        "register": {"model_name": "nights"},
        "grow": {},
    }  # fmt: skip
    for table, keys in more.items():
        values[table] = {**values.get(table, {}), **keys}
    config, problems = validate_values(values)
    assert config is not None, problems
    return config


def put_night(folder, number, rows):
    """Write an archive with a page of each pair."""
    (folder / "nights").mkdir(parents=True, exist_ok=True)
    pages = [f'<img src="{url}" alt="{html.escape(caption)}">'.encode() for url, caption in rows]
    records = [record(f"http://{HOST}/{n}", http(page, Content_Type="text/html")) for n, page in enumerate(pages)]
    write_archive(folder / "nights" / f"{number:03d}.warc", records)


def run(config, home, store=None, pool=None):
    """Run a config up to pack, as a flow run does.

    Returns: the version that it adds (None: no file is new, or the dataset does not grow), and the snapshots by stage.
    """
    config, store, manifests = config.with_recorded_base(), store or open_store(config.store.uri), {}
    context = inline_context(store, home, pool)
    try:
        for step in PIPELINE[:5]:
            upstream = [manifests[name] for name in step.reads]
            planned = plan(step.stage, config.stage_config(step.table), config.seed, upstream, store)
            manifests[step.stage.name] = reuse(planned, context) or make(planned, context)
            check_kept(manifests[step.stage.name])
    except NothingLeft:
        if config.base is None or not config.base.packs:
            raise
    if config.base is None or config.grow is None or not manifests:
        return None, manifests
    run_id = f"run-{config.grow.number}"
    record = RunRecord(run_id=run_id, name=config.name, created_at="2026-01-01", config=config.as_dict())
    for stage, manifest in manifests.items():
        record.set_stage(StageRun(stage=stage, key=manifest.key, state="Completed"))
    record.save(store)
    version = add_run(store, config, manifests, record.run_id)
    record.version = version.name
    record.save(store)
    return version, manifests


def run_night(web, folder, number, rows=None):
    """Write the archive of a night, by default one of NIGHTS, and run a config of all archives."""
    put_night(folder, number, NIGHTS[number - 1] if rows is None else rows)
    version, manifests = run(configured(web, folder), folder)
    assert version is not None
    return version, manifests


def list_uids(store, packs):
    """Return the uids of some datasets, which have none in common."""
    rows = [uid for pack in packs for uid in read_parts(store, pack, "part-", ["uid"])["uid"].to_pylist()]
    assert len(rows) == len(set(rows))
    return set(rows)


class Killed(BaseException):
    """Stands for SIGKILL: nothing handles it."""


class MortalStore(FolderStore):
    """A store whose process dies before one of its writes."""

    def __init__(self, root, lives):
        super().__init__(root)
        self.lives = lives

    def _die(self):
        self.lives -= 1
        if self.lives < 0:
            raise Killed

    def put(self, *args, **options):
        self._die()
        super().put(*args, **options)

    def put_chunks(self, *args, **options):
        self._die()
        super().put_chunks(*args, **options)

    def create(self, *args, **options):
        self._die()
        return super().create(*args, **options)
