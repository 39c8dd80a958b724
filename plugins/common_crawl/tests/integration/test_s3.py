"""The layout of Common Crawl in a bucket, on a real S3 server."""

import gzip
from contextlib import closing

import boto3

from dataops.snapshot import read_parts
from dataops.store import FolderStore
from plugins.common_crawl.source import CommonCrawlSource
from tasks.engine.stage import make, plan
from tasks.extract.stage import EXTRACT
from tests.inline_executor import inline_context
from tests.wat_files import small_wat

PATHS = [f"crawl-data/CC-MAIN-2026-43/segments/1/wat/{one}.warc.wat.gz" for one in "abc"]
LISTING = "crawl-data/CC-MAIN-2026-43/wat.paths.gz"


def test_extract_reads_common_crawl_from_a_bucket(s3_environment, tmp_path):
    bucket = "common-crawl"
    with closing(boto3.client("s3")) as client:
        client.create_bucket(Bucket=bucket)
        client.put_object(Bucket=bucket, Key=LISTING, Body=gzip.compress("\n".join(PATHS).encode()))
        for path in PATHS:
            client.put_object(Bucket=bucket, Key=path, Body=small_wat(path[-13]))
    source, store = (
        CommonCrawlSource(crawl="CC-MAIN-2026-43", num_files=2, base_url=f"s3://{bucket}/"),
        FolderStore(tmp_path),
    )
    manifest = make(plan(EXTRACT, source, 0, []), inline_context(store, tmp_path))
    assert manifest.counts.kept == 2400
    assert set(read_parts(store, manifest)["source"].to_pylist()) < set(PATHS)
