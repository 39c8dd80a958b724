"""Archives and WAT files in a bucket, and Common Crawl's layout there, on a real S3 server."""

import gzip
from pathlib import Path

import boto3
import pytest

from dataops.errors import ConfigError, SourceError
from dataops.snapshot import read_parts
from dataops.store import FolderStore
from plugins.common_crawl.source import CommonCrawlSource, WatSource
from tasks.engine.context import Context
from tasks.engine.stage import make, plan
from tasks.extract.sources.warc import WarcSource
from tasks.extract.stage import EXTRACT
from tasks.files.find import find_source_files
from tasks.lists.locations import read_values
from tests.crawl_pages import ANIMALS, write_warc
from tests.inline_executor import InlineExecutor
from tests.wat_files import small_wat

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def bucket(s3_environment, tmp_path):
    client = boto3.client("s3")
    name = f"crawls-{tmp_path.name.replace('_', '-')[:40].lower()}"
    client.create_bucket(Bucket=name)
    yield client, name
    client.close()


def extract(source, folder: Path):
    store = FolderStore(folder / "store")
    manifest = make(plan(EXTRACT, source, 0, []), Context(store, folder, workers=1, pool=InlineExecutor()))
    return manifest, read_parts(store, manifest)


def test_extract_reads_files_by_globs_in_a_bucket(bucket, tmp_path):
    client, name = bucket
    warc = write_warc(tmp_path / "animals.warc.gz", ANIMALS)
    for key in ("in/a.wat.gz", "in/deep/er/b.wat.gz", "in/deep/c.warc.gz", "out/d.wat.gz"):
        client.put_object(Bucket=name, Key=key, Body=warc.read_bytes() if "warc" in key else small_wat(key[-8]))
    named = [file.name for file in find_source_files([f"s3://{name}/in/**/*.wat.gz"])]
    assert named == ["a.wat.gz", "deep/er/b.wat.gz"]
    assert [file.name for file in find_source_files([f"s3://{name}/*/*.wat.gz"])] == ["in/a.wat.gz", "out/d.wat.gz"]
    first, rows = extract(WatSource(paths=[f"s3://{name}/in/**/*.wat.gz"]), tmp_path)
    assert first.counts.kept == rows.num_rows == 2400
    assert set(rows["source"].to_pylist()) == set(named)
    # The archive gives the same rows as from a folder.
    _, rows = extract(WarcSource(paths=[f"s3://{name}/in/deep/*.warc.gz"]), tmp_path / "s3")
    _, same = extract(WarcSource(paths=[str(warc)]), tmp_path / "local")
    assert rows.drop(["source"]).equals(same.drop(["source"]))
    # The key depends on the bytes of the objects.
    source = WatSource(paths=[f"s3://{name}/in/**/*.wat.gz"])
    assert plan(EXTRACT, source, 0, []).key == first.key
    client.put_object(Bucket=name, Key="in/a.wat.gz", Body=small_wat("z"))
    assert plan(EXTRACT, source, 0, []).key != first.key


def test_open_raises_when_an_object_changes(bucket):
    client, name = bucket
    client.put_object(Bucket=name, Key="a.wat.gz", Body=small_wat("a"))
    [file] = find_source_files([f"s3://{name}/a.wat.gz"])
    with file.open() as stream:
        assert stream.read(10) == small_wat("a")[:10]
    client.put_object(Bucket=name, Key="a.wat.gz", Body=small_wat("b"))
    with pytest.raises(SourceError, match="changed while it was read"), file.open() as stream:
        stream.read(10)


def test_find_source_files_names_what_is_not_found(bucket):
    _, name = bucket
    with pytest.raises(ConfigError, match=r"matches no file"):
        find_source_files([f"s3://{name}/none/*.gz"])
    with pytest.raises(ConfigError, match=r"NoSuchBucket"):
        find_source_files(["s3://no-such-bucket-here/x.gz"])


def test_extract_reads_common_crawl_from_a_bucket(bucket, tmp_path):
    client, name = bucket
    paths = [f"crawl-data/CC-MAIN-2026-43/segments/1/wat/{one}.warc.wat.gz" for one in "abc"]
    client.put_object(
        Bucket=name, Key="crawl-data/CC-MAIN-2026-43/wat.paths.gz", Body=gzip.compress("\n".join(paths).encode())
    )
    for path in paths:
        client.put_object(Bucket=name, Key=path, Body=small_wat(path[-13]))
    source = CommonCrawlSource(crawl="CC-MAIN-2026-43", num_files=2, base_url=f"s3://{name}/")
    manifest, rows = extract(source, tmp_path)
    assert manifest.counts.kept == 2400
    assert set(rows["source"].to_pylist()) < set(paths)


def test_list_is_read_from_an_object(bucket):
    client, name = bucket
    client.put_object(Bucket=name, Key="lists/a.csv", Body=b"why,value\nx,one\ny,two\n")
    assert list(read_values(f"s3://{name}/lists/a.csv", ("value",), str)) == ["one", "two"]
    with pytest.raises(SourceError, match=rf"s3://{name}/lists/none\.txt: .*NoSuchKey"):
        list(read_values(f"s3://{name}/lists/none.txt", (), str))
