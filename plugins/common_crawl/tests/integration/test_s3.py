"""WAT files and the layout of Common Crawl in a bucket, on a real S3 server."""

import gzip
from contextlib import closing

import boto3
import pytest

from dataops.snapshot import read_parts
from dataops.store import FolderStore
from plugins.common_crawl.source import CommonCrawlSource, WatSource
from tasks.engine.context import Context
from tasks.engine.stage import make, plan
from tasks.extract.stage import EXTRACT
from tests.inline_executor import InlineExecutor
from tests.wat_files import small_wat

pytestmark = pytest.mark.timeout(120)
PATHS = [f"crawl-data/CC-MAIN-2026-43/segments/1/wat/{one}.warc.wat.gz" for one in "abc"]
LISTING = "crawl-data/CC-MAIN-2026-43/wat.paths.gz"


@pytest.fixture
def bucket(s3_environment):
    with closing(boto3.client("s3")) as client:
        client.create_bucket(Bucket="common-crawl")
        client.put_object(Bucket="common-crawl", Key=LISTING, Body=gzip.compress("\n".join(PATHS).encode()))
        for path in PATHS:
            client.put_object(Bucket="common-crawl", Key=path, Body=small_wat(path[-13]))
        yield "common-crawl"


def extract(source, folder):
    store = FolderStore(folder / "store")
    manifest = make(plan(EXTRACT, source, 0, []), Context(store, folder, workers=1, pool=InlineExecutor()))
    return manifest, set(read_parts(store, manifest)["source"].to_pylist())


def test_extract_reads_common_crawl_and_its_files_from_a_bucket(bucket, tmp_path):
    source = CommonCrawlSource(crawl="CC-MAIN-2026-43", num_files=2, base_url=f"s3://{bucket}/")
    manifest, names = extract(source, tmp_path)
    assert manifest.counts.kept == 2400
    assert names < set(PATHS)
    manifest, names = extract(WatSource(paths=[f"s3://{bucket}/crawl-data/**/*.wat.gz"]), tmp_path)
    assert manifest.counts.kept == 3600
    assert len(names) == 3
