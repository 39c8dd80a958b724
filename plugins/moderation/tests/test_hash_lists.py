"""A download writes nothing of a known harmful image: not its bytes, nor its URL, nor its caption.

Temporary folders and scratch objects are kept here, so that what was deleted is searched too.
"""

import hashlib
import io
import logging
import tempfile
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from dataops.schema import FILTERED, uid
from dataops.snapshot import Draft, read_parts
from dataops.store import FolderStore
from plugins.moderation.pdq import compute_pdq, format_pdq
from tasks.download.config import DownloadConfig
from tasks.download.stage import DOWNLOAD
from tasks.engine import scratch_folders
from tasks.engine.context import Context
from tasks.engine.stage import make, plan
from tasks.pack.card_samples import read_samples
from tests.manifests import build_manifest
from tests.servers.loopback import Handler, serving

HARMFUL = ("sha256", "sha1", "md5", "pdq", "moved", "late", "turned")
"""Names of the rows whose images are on a list, by how they are found."""
HARMLESS = ("one", "two", "blank")


def photo(seed):
    """Return an image with shapes of the size that PDQ compares, and little noise (256, 256, 3)."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 240, (24, 24, 3), np.uint8)).resize(
        (256, 256), Image.Resampling.BICUBIC
    )
    return np.asarray(coarse) // 2 + generator.integers(0, 12, (256, 256, 3), np.uint8)


def encode(pixels, kind="PNG", size=256, **options):
    out = io.BytesIO()
    Image.fromarray(pixels).resize((size, size)).save(out, kind, **options)
    return out.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(np.rot90(photo(6)), "JPEG", exif=exif.tobytes(), quality=90)


BODIES = {name: encode(photo(number)) for number, name in enumerate(HARMFUL)} | {
    "pdq": encode(photo(3), "JPEG", 180, quality=70),
    "turned": turned(),
    "one": encode(photo(20)),
    "two": encode(photo(21)),
    "blank": encode(np.full((256, 256, 3), 200, np.uint8)),
}


class Site(Handler):
    """Serves the images; `late` first fails, and `moved` is a redirect."""

    def do_GET(self):
        name, seen = self.path.strip("/").partition(".")[0], self.server.seen
        seen[name] += 1
        body = BODIES.get(name, b"")
        if name == "list":
            self.answer(200, hashlib.md5(BODIES["md5"]).hexdigest().encode())
        elif name == "moved" and "final" not in self.path:
            self.answer(302, Location="/moved.final.png")
        else:
            self.answer(404 if not body else 503 if name == "late" and seen[name] == 1 else 200, body, ETag=f'"{name}"')


@pytest.fixture
def site():
    with serving(Site, seen=Counter()) as server:
        yield server


@pytest.fixture
def kept_files(tmp_path, monkeypatch):
    """Delete no temporary folder and no object of the store; return the folder of the temporary folders."""
    folder = tmp_path / "temporary"
    folder.mkdir()

    @contextmanager
    def keep(prefix):
        yield tempfile.mkdtemp(prefix=prefix, dir=folder)

    monkeypatch.setattr(scratch_folders.tempfile, "TemporaryDirectory", keep)
    monkeypatch.setattr(FolderStore, "delete", lambda self, names: None)
    return folder


def write_lists(folder):
    folder.mkdir()
    entries = {
        "md5": [hashlib.md5(BODIES["md5"]).hexdigest()],
        "sha1": [hashlib.sha1(BODIES[name]).hexdigest().upper() for name in ("sha1", "late")],
        "sha256": [hashlib.sha256(BODIES[name]).hexdigest() for name in ("sha256", "moved")],
        "pdq": [format_pdq(compute_pdq(photo(number)[..., ::-1])[0]) for number in (3, 6)]
        + [format_pdq(compute_pdq(np.full((256, 256, 3), 200, np.uint8))[0])],
    }
    for kind, values in entries.items():
        (folder / f"{kind}.txt").write_text("# digests\n" + "\n".join(values))
    return {kind: {f"list-{kind}": str(folder / f"{kind}.txt")} for kind in entries}


def rows():
    found = []
    for name in (*HARMFUL, *HARMLESS):
        url, caption = f"http://a.test/{name}.png", f"the caption of {name}"
        found.append(
            {"uid": uid(url, caption), "url": url, "caption": caption, "page_url": f"http://a.test/page-{name}"}
        )
    return found


def texts(path):
    """Return the content of a file, of a table that of its cells."""
    if path.suffix == ".parquet":
        return repr(pq.ParquetFile(path).read().to_pylist()).encode()
    return path.read_bytes()


def find(folder, sought):
    """Return the files in a folder, and their names, that hold some bytes."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if sought in texts(path) or sought in str(path).encode()]


def download(tmp_path, port, pool, **settings):
    store = FolderStore(tmp_path / "store")
    part = Draft(store, "filter", "k").put_table("part-00000.parquet", pa.Table.from_pylist(rows(), schema=FILTERED))
    config = DownloadConfig.model_validate(
        {"connect_to": {"a.test": f"127.0.0.1:{port}"}, "image_size": 64, "retry": {"classes": ["*"], "delay": 0}}
        | settings
    )
    planned = plan(DOWNLOAD, config, 0, [build_manifest("filter", [part], key="k")], store)
    return store, make(planned, Context(store, tmp_path / "home", workers=1, pool=pool))


def test_nothing_of_a_known_harmful_image_is_written(tmp_path, site, kept_files, one_thread, caplog):
    caplog.set_level(logging.DEBUG)
    lists = write_lists(tmp_path / "lists") | {"md5": {"list-md5": f"{site.url}/list.txt"}}
    store, manifest = download(tmp_path, site.server_port, one_thread, hash_lists=lists)
    assert site.seen["list"] == 1  # by the driver; workers get what it read
    assert manifest.counts.dropped == {"known_harm": len(HARMFUL)}
    assert manifest.counts.kept == len(HARMLESS)
    assert manifest.facts["known_harm"] == {"list-md5": 1, "list-pdq": 2, "list-sha1": 2, "list-sha256": 2}
    assert manifest.facts["hosts"] == {}  # no host of a match
    assert site.seen["late"] == 2  # the first request failed, and its row was retried
    assert {one.key for one in manifest.inputs} > {"list-md5 (md5)", "list-pdq (pdq)"}
    by_name = {row["url"].rpartition("/")[2].partition(".")[0]: row for row in rows()}
    dropped = {row.pop("uid"): row for row in read_parts(store, manifest, "dropped-").to_pylist()}
    evidence = {row.pop("uid"): row for row in read_parts(store, manifest, "evidence-").to_pylist()}
    kept = read_parts(store, manifest).to_pylist()
    assert {row["uid"] for row in kept} == {by_name[name]["uid"] for name in HARMLESS}
    assert dropped.keys() == {by_name[name]["uid"] for name in HARMFUL}
    left = {"key", "shard", "status", "error_message", "drop_reason", "drop_stage"}
    for name in HARMFUL:
        row, trace = dropped[by_name[name]["uid"]], evidence[by_name[name]["uid"]]
        assert {column for column, value in row.items() if value is not None} == left
        assert row["error_message"].startswith("known_harm: list-")
        assert not any(value for column, value in trace.items() if column != "key")
    page = str(read_samples(manifest, store)).encode()  # what pages show
    written = tmp_path / "store" / "download"
    for name in HARMFUL:
        assert find(tmp_path, BODIES[name][40:120]) == []
        for text in (f"{name}.png", f"the caption of {name}", f"page-{name}"):
            assert [path for path in find(written, text.encode()) if "/_work/" not in path] == []
            assert text not in caplog.text
            assert text.encode() not in page
    assert find(tmp_path / "store", b"the caption of one")
    for kind in ("md5", "sha1", "sha256", "pdq"):  # the lists themselves are written nowhere in clear
        entry = (tmp_path / "lists" / f"{kind}.txt").read_text().split()[2].lower()
        for form in (entry.encode(), bytes.fromhex(entry)[:16]):
            assert find(tmp_path / "store", form) == []


def test_key_has_the_names_of_the_lists_and_not_their_locations():
    keys = [
        DownloadConfig.model_validate({"hash_lists": {"md5": {"own": where}}}).key_config()
        for where in ("a.txt", "b.txt")
    ]
    assert keys[0] == keys[1]
    assert keys[0]["hash_lists"]["md5"] == ["own"]
    with pytest.raises(ValidationError, match="names no list"):
        DownloadConfig.model_validate({"hash_lists": {}})
