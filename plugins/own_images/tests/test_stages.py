"""Own images through all stages over pairs: with others, killed, changed meanwhile, taken down, from S3."""

import shutil

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataops.errors import SourceError
from dataops.snapshot import read_parts
from dataops.store import FolderStore
from dataops.trace.requests import make_request, record_request
from dataops.trace.targets import parse_target
from flows.config import validate_values
from plugins.own_images.folder import open_folder
from plugins.own_images.tests.made import outcomes, run, write_files
from tasks.download.rounds import ShardTask
from tests.archived_images import http, record, write_archive
from tests.image_files import photo
from tests.inline_executor import InlineExecutor, PicklingExecutor
from tests.tar_files import write_tar

pytestmark = pytest.mark.timeout(300)


def write_sources(folder):
    """Write an archive, a folder, a shard and a table of six images each, and return their `[[source]]`."""
    shown = "".join(f'<img src="/{n}.png" alt="Archived view number {n} of the old harbour town">' for n in range(6))
    page = http(f"<html lang=en><body>{shown}".encode(), Content_Type="text/html")
    images = [record(f"http://a.test/{n}.png", http(photo(n, "PNG"))) for n in range(6)]
    write_archive(folder / "pages.warc.gz", [record("http://a.test/", page), *images])
    files = {f"{n}.jpg": photo(10 + n) for n in range(6)} | {
        f"{n}.txt": f"a photo of my own, number {n}" for n in range(6)
    }
    write_files(folder / "photos", files)
    texts = [f"a sample of a shard, number {n}" for n in range(6)]
    samples = [((f"{n}.jpg", photo(20 + n)), (f"{n}.txt", text)) for n, text in enumerate(texts)]
    write_tar(folder / "shards/a.tar", [member for sample in samples for member in sample])
    images = [{"bytes": photo(30 + n), "path": None} for n in range(6)]
    table = pa.table({"image": images, "text": [f"the row of a table, number {n}" for n in range(6)]})
    pq.write_table(table, folder / "rows.parquet", row_group_size=4)
    return [
        {"kind": "warc", "paths": [str(folder / "*.warc.gz")], "images": "archive"},
        {"kind": "folder", "name": "mine", "folder": str(folder / "photos"), "license": "https://a.test/licence"},
        {"kind": "webdataset", "paths": [str(folder / "shards/*.tar")]},
        {"kind": "huggingface", "name": "set", "paths": [str(folder / "rows.parquet")]},
    ]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Return a folder, its sources without the archive, and the snapshots of their pairs in its store."""
    folder = tmp_path_factory.mktemp("own")
    sources = write_sources(folder)[1:]
    return folder, sources, run(folder, sources, InlineExecutor())


def digests(made):
    return {name: one.content_digest for name, one in made.items()}


@pytest.mark.long
def test_dataset_of_an_archive_and_own_images(own, tmp_path):
    pytest.importorskip("plugins.archives")
    sources = write_sources(tmp_path)
    config, problems = validate_values({"name": "x", "source": sources, "download": {"image_size": 32}})
    assert not problems
    assert not config.stage_config("download").problems(), "no contact is needed where no host is asked"
    made = run(tmp_path, sources, PicklingExecutor())  # as in worker processes
    store = FolderStore(tmp_path / "store")
    assert made["pack"].counts.kept == 24
    assert made["pack"].facts["sources"] == {"warc": 6, "mine": 6, "webdataset": 6, "set": 6}
    card = store.read(made["pack"].path("DATASET.md")).decode()
    (row,) = [line for line in card.splitlines() if line.startswith("| mine | folder |")]
    assert "//a.test/licence" in row
    assert row.endswith("| 1 | 6 | 6 | 6 | 25.0% |")
    folder, _, alone = own
    card = FolderStore(folder / "store").read(alone["pack"].path("DATASET.md")).decode()
    assert "Captions are those of files that the sources name." in card
    assert "one host" not in card

    asked = [{"kind": "pairs", "paths": ["x.csv"]}, *sources]
    config, _ = validate_values({"name": "x", "source": asked, "download": {"image_size": 32}})
    assert "contact: is required" in " ".join(config.stage_config("download").problems())


def test_read_that_is_killed_resumes_with_the_same_bytes(own, tmp_path):
    _, sources, whole = own
    read = []

    def kill(task):
        if isinstance(task, ShardTask):
            read.append(task.id)
            if len(read) == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", sources, InlineExecutor(kill))
    read.append("resumed")
    assert digests(run(tmp_path / "killed", sources, InlineExecutor(kill))) == digests(whole)
    assert read == [*(f"shard-{n:05d}" for n in range(3)), "resumed", *(f"shard-{n:05d}" for n in range(2, 5))]


def test_photo_that_changes_while_it_is_read_stops_the_run(tmp_path):
    source = write_sources(tmp_path)[1]

    def change(task):
        if isinstance(task, ShardTask):
            write_files(tmp_path / "photos", {"5.jpg": photo(50)})

    with pytest.raises(SourceError, match="changed while the run read them; start the run again"):
        run(tmp_path, source, InlineExecutor(change))


def test_own_image_is_taken_down(own, tmp_path, one_thread):
    folder, sources, made = own
    shutil.copytree(folder / "store", tmp_path / "store")
    store, urls = FolderStore(tmp_path / "store"), ["source://mine/3.jpg", "source://webdataset/a.tar/1.jpg"]
    record_request(store, make_request([parse_target(url) for url in urls], ""))
    again = run(tmp_path, sources, one_thread)
    assert again["download"] == made["download"]
    left = set(read_parts(store, again["pack"])["url"].to_pylist())
    assert len(left) == 16
    assert not left & set(urls)
    # A later download of the same folder does not read it.
    later = run(tmp_path, sources[0], one_thread)
    assert outcomes(store, later)["3.jpg", "a photo of my own, number 3"] == "takedown"


def test_opt_out_lists_name_own_images_and_their_origin(tmp_path):
    source = write_sources(tmp_path)[1]
    write_files(tmp_path / "photos", {"1.json": '{"url": "https://artist.test/1.jpg"}'})
    write_files(tmp_path, {"list.txt": "source://mine/0.jpg\nartist.test\n"})
    lists = {"opt_out_lists": {"letters": str(tmp_path / "list.txt")}}
    made = run(tmp_path, source, InlineExecutor(), "filter", filter=lists)
    found = outcomes(FolderStore(tmp_path / "store"), made)
    assert {path for (path, _), reason in found.items() if reason == "opt_out_list"} == {"0.jpg", "1.jpg"}


def test_bucket_gives_the_rows_of_a_folder(own, s3_environment, tmp_path):
    folder, sources, here = own
    client, bucket = boto3.client("s3"), "own-images"
    client.create_bucket(Bucket=bucket)
    for path in [*folder.glob("photos/*"), *folder.glob("shards/*"), folder / "rows.parquet"]:
        client.put_object(Bucket=bucket, Key=f"in [1]/{path.parent.name}/{path.name}", Body=path.read_bytes())
    client.put_object(Bucket=bucket, Key="in [1]/photos/.hidden/x.jpg", Body=photo(1))
    client.put_object(Bucket=bucket, Key="in [1]/photoshoot/x.jpg", Body=photo(1))
    client.put_object(Bucket=bucket, Key="in [1]/e\u0301.jpg", Body=photo(1))
    client.close()
    opened = open_folder(f"s3://{bucket}/in [1]")
    assert opened.read("\u00e9.jpg", 1 << 20) == photo(1)
    assert opened.digest("\u00e9.jpg") == opened.digest("photoshoot/x.jpg") == opened.file("\u00e9.jpg").digest()
    places = ({"folder": f"s3://{bucket}/in [1]/photos"}, {"paths": [f"s3://{bucket}/in*/shards/*.tar"]},
              {"paths": [f"s3://{bucket}/in*/*/rows.parquet"]})  # fmt: skip
    there = run(tmp_path / "s3", [one | place for one, place in zip(sources, places, strict=True)], InlineExecutor())
    rows = [
        read_parts(FolderStore(root / "store"), made["pack"]).select(["uid", "url", "caption", "sha256"]).sort_by("uid")
        for root, made in ((folder, here), (tmp_path / "s3", there))
    ]
    mine, theirs = ([row for row in one.to_pylist() if "set/" not in row["url"]] for one in rows)
    assert mine == theirs
    assert set(rows[0]["sha256"].to_pylist()) == set(rows[1]["sha256"].to_pylist())
