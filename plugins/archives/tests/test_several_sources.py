"""From two sources to one dataset: an archive that holds its images, and a licensed list whose images a host serves."""

from collections import Counter

import pytest

from dataops.snapshot import read_parts
from dataops.store import FolderStore
from tests.archived_images import http, record, write_archive
from tests.image_files import photo
from tests.servers.loopback import Handler, serving

LICENCE = "https://creativecommons.org/licenses/by/4.0/"


class ImageHost(Handler):
    """Serves `/N.png`, and counts the requests."""

    def do_GET(self):
        self.server.requested[self.path] += 1
        is_image = self.path.endswith(".png")
        self.answer(200 if is_image else 404, photo(int(self.path[1:-4]), "PNG", 96) if is_image else b"")


def write_sources(folder):
    """Write an archive with the images 0 to 5 of a.test, and a list of 4 to 9: two of a.test, four of b.test."""
    captions = "".join(f'<img src="/{n}.png" alt="Archived view number {n} of the old harbour town">' for n in range(6))
    page = http(f"<html lang=en><body>{captions}".encode(), Content_Type="text/html")
    images = [record(f"http://a.test/{n}.png", http(photo(n, "PNG", 96))) for n in range(6)]
    write_archive(folder / "pages.warc.gz", [record("http://a.test/", page), *images])
    hosts = {n: "a.test" if n < 6 else "b.test" for n in range(4, 10)}
    lines = [
        f"http://{host}/{n}.png,A much longer licensed caption number {n} of a harbour" for n, host in hosts.items()
    ]
    (folder / "list.csv").write_text("\n".join(["url,caption", *lines]))


def test_a_dataset_of_two_sources_names_the_source_of_each_pair(tmp_path, one_thread):
    made = pytest.importorskip("plugins.own_images.tests.made", reason="it reads lists of pairs")
    write_sources(tmp_path)
    archive = {"kind": "warc", "paths": [str(tmp_path / "*.warc.gz")], "images": "archive"}
    licensed = {"name": "licensed", "kind": "pairs", "paths": [str(tmp_path / "*.csv")], "license": LICENCE}
    requested = Counter()
    with serving(ImageHost, requested=requested) as server:
        connect_to = dict.fromkeys(("a.test", "b.test"), server.url.removeprefix("http://"))
        download = {"connect_to": connect_to, "contact": "mailto:a@b.test"}
        one = made.run(tmp_path, [archive, licensed], one_thread, download=download)
        assert {path for path in requested if path.endswith(".png")} == {f"/{n}.png" for n in range(6, 10)}
        other = made.run(tmp_path, [licensed, archive], one_thread, "filter", download=download)
    store = FolderStore(tmp_path / "store")

    rows = {row["url"]: row for row in read_parts(store, one["pack"]).to_pylist()}
    assert Counter(row["source"] for row in rows.values()) == {"warc/pages.warc.gz": 6, "licensed/list.csv": 4}
    assert {row["license"] for row in rows.values() if row["source"].startswith("licensed/")} == {LICENCE}
    dropped = read_parts(store, one["filter"], "dropped-").to_pylist()
    assert [(row["source"], row["drop_reason"]) for row in dropped] == [("licensed/list.csv", "duplicate_url")] * 2
    evidence = {row["url"]: row["archive"] for row in read_parts(store, one["download"], "evidence-").to_pylist()}
    assert (evidence["http://a.test/4.png"], evidence["http://b.test/7.png"]) == ("warc/pages.warc.gz", None)

    sources = Counter(row["source"] for row in read_parts(store, other["filter"]).to_pylist())
    assert sources == {"warc/pages.warc.gz": 4, "licensed/list.csv": 6}, "of duplicates, the first source's is kept"
    assert other["extract"].content_digest == one["extract"].content_digest, "the parts are those of the files"
    assert one["filter"].facts["sources"]["licensed"] == {"kept": 4, "dropped": {"duplicate_url": 2}}
    text = store.read(one["pack"].path("DATASET.md")).decode()
    assert f"The config states the licence `{LICENCE}` for pairs of the source `licensed` without" in text
