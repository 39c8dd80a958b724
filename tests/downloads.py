"""Rows and pictures of small downloads, and one shard of them."""

from types import MappingProxyType

import pyarrow as pa

from dataops.schema import FILTERED, uid
from dataops.snapshot import Counts, Draft, read_table
from dataops.store import FolderStore
from tasks.download.config import DownloadConfig
from tasks.download.hooks import start_hooks
from tasks.download.rounds import ShardCut, ShardTask, cut_objects
from tasks.download.stage import DOWNLOAD
from tasks.engine.context import Context
from tasks.engine.stage import Work, plan
from tests.manifests import build_manifest


def filtered(store, urls, rows_a_part, page_opt_out=MappingProxyType({})):
    draft, parts = Draft(store, "filter", "0123456789abcdef"), []
    for start in range(0, len(urls), rows_a_part):
        some = urls[start : start + rows_a_part]
        rows = [
            {
                "uid": uid(url, f"caption of {url}"),
                "url": url,
                "caption": f"caption of {url}",
                "caption_source": "alt",
                "page_url": "http://site.test/",
                "source": "pages.warc.gz",
                "source_offset": 0,
                "extracted_with": "test",
                "page_opt_out": page_opt_out.get(url),
                "language": "en",
                "language_score": 0.5,
            }
            for url in some
        ]
        parts.append(draft.put_table(f"part-{len(parts):05d}.parquet", pa.Table.from_pylist(rows, FILTERED)))
    return draft.commit(build_manifest("filter", parts, key=draft.key, counts=Counts(input=len(urls), kept=len(urls))))


URLS = [f"http://site.test/{'gone' if n % 9 == 4 else 'moody' if n % 3 == 1 else 'ok'}/{n}.png" for n in range(45)]
MOODY, GONE = (sum(f"/{kind}/" in url for url in URLS) for kind in ("moody", "gone"))


def planned_in(store, server, **config):
    """Return the plan of a download of URLS from a server on a port, which answers /moody/ when it is in the mood."""
    known = {"image_size": 32, "shard_size": 20, "retries": 0, "host_rate": 0, "retry": {"rounds": 2, "delay": 0.1}}
    connect_to = {"site.test": f"127.0.0.1:{server.server_port}"}
    settings = DownloadConfig.model_validate({**known, "connect_to": connect_to, **config})
    return plan(DOWNLOAD, settings, 0, [filtered(store, URLS, rows_a_part=45)], store)


def fetched(folder, urls, page_opt_out=MappingProxyType({}), **options):
    """Download URLs, and return the drop reason (None for a kept row) and the evidence of each, by URL.

    Args:
        page_opt_out: that column of rows, by URL.
    """
    from tasks.download import worker as fetch_shard

    store = FolderStore(folder / "store")
    source, draft = filtered(store, urls, len(urls), page_opt_out), Draft(store, "download", "polite")
    config = DownloadConfig(**{"image_size": 48, "timeout": 20, "max_bytes": 300_000, "threads": 16} | options)
    context = Context(store, folder, workers=1)
    hooks = start_hooks(Work(config, 0, {"filter": source}, draft, context), context)
    fetch_shard.download_shard(draft, ShardTask(ShardCut(0, cut_parts(source, len(urls))[0]), config, hooks=hooks))
    kept, dropped, evidence = (
        read_table(store, draft.path(f"{part}-00000.parquet")).to_pylist() for part in ("part", "dropped", "evidence")
    )
    reasons = {row["url"]: None for row in kept} | {row["url"]: row["drop_reason"] for row in dropped}
    return reasons, {row["url"]: row for row in evidence}


def cut_parts(manifest, size, prefix="part-"):
    """Cut the parts `<prefix>*.parquet` into shards of `size` rows; the last one may be smaller."""
    return cut_objects([(manifest.path(p.name), p.rows) for p in manifest.named(prefix, ".parquet")], size)
