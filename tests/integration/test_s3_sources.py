"""Archives and lists in a bucket, on a real S3 server."""

import boto3
import pytest

from dataops.errors import SourceError
from dataops.snapshot import read_parts
from dataops.store import FolderStore
from tasks.engine.stage import make, plan
from tasks.extract.sources.warc import WarcSource
from tasks.extract.stage import EXTRACT
from tasks.files.find import find_source_files
from tasks.lists.locations import read_values
from tests.crawl_pages import ANIMALS, PLACE_PAGES, write_warc
from tests.inline_executor import inline_context


@pytest.fixture
def bucket(s3_environment, tmp_path):
    client = boto3.client("s3")
    name = f"crawls-{tmp_path.name.replace('_', '-')[:40].lower()}"
    client.create_bucket(Bucket=name)
    yield client, name
    client.close()


def extract(source, folder):
    store = FolderStore(folder / "store")
    manifest = make(plan(EXTRACT, source, 0, []), inline_context(store, folder))
    return manifest, read_parts(store, manifest)


def test_extract_reads_files_by_globs_in_a_bucket(bucket, tmp_path):
    client, name = bucket
    warc, more = write_warc(tmp_path / "animals.warc.gz", ANIMALS), write_warc(tmp_path / "b.warc.gz", PLACE_PAGES)
    for key in ("in/a.warc.gz", "in/deep/er/b.warc.gz", "in/deep/c.txt", "out/d.warc.gz"):
        client.put_object(Bucket=name, Key=key, Body=(more if "b." in key else warc).read_bytes())
    named = [file.name for file in find_source_files([f"s3://{name}/in/**/*.warc.gz"])]
    assert named == ["a.warc.gz", "deep/er/b.warc.gz"]
    assert [file.name for file in find_source_files([f"s3://{name}/*/*.warc.gz"])] == ["in/a.warc.gz", "out/d.warc.gz"]
    source = WarcSource(paths=[f"s3://{name}/in/**/*.warc.gz"])
    first, rows = extract(source, tmp_path / "s3")
    assert set(rows["source"].to_pylist()) == set(named)
    # The archives give the same rows as from a folder.
    _, same = extract(WarcSource(paths=[str(warc), str(more)]), tmp_path / "local")
    assert rows.drop(["source"]).equals(same.drop(["source"]))
    # The key depends on the bytes of the objects.
    assert plan(EXTRACT, source, 0, []).key == first.key
    client.put_object(Bucket=name, Key="in/a.warc.gz", Body=more.read_bytes())
    assert plan(EXTRACT, source, 0, []).key != first.key


def test_open_raises_when_an_object_changes(bucket):
    client, name = bucket
    client.put_object(Bucket=name, Key="a.gz", Body=b"first bytes of it")
    [file] = find_source_files([f"s3://{name}/a.gz"])
    with file.open() as stream:
        assert stream.read(10) == b"first bytes of"[:10]
    client.put_object(Bucket=name, Key="a.gz", Body=b"other bytes of it")
    with pytest.raises(SourceError, match="changed while it was read"), file.open() as stream:
        stream.read(10)


def test_list_is_read_from_an_object(bucket):
    client, name = bucket
    client.put_object(Bucket=name, Key="lists/a.csv", Body=b"why,value\nx,one\ny,two\n")
    assert list(read_values(f"s3://{name}/lists/a.csv", ("value",), str)) == ["one", "two"]
    with pytest.raises(SourceError, match=rf"s3://{name}/lists/none\.txt: .*NoSuchKey"):
        list(read_values(f"s3://{name}/lists/none.txt", (), str))
