"""The crawl's process: `python -m tasks.extract.crawl.job job.json`, where job.json names the `[source]` table and a folder.

Started again on the same folder it goes on. When all is crawled it leaves in `<folder>/out` what is to be kept:

    evidence-pages-00000.warc.gz ...   the pages in the order of their addresses, `pages_per_part` each
    evidence-robots.warc.gz            each robots.txt that was read
    evidence-crawl.parquet             every address, what became of it, and where its page lies
    crawl.json                         the counts
"""

import json
import logging
import os
import sys
import threading
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from scrapy.crawler import AsyncCrawlerProcess

from tasks.extract.crawl.archive import write_sorted
from tasks.extract.crawl.context import Crawl
from tasks.extract.crawl.frontier import Frontier
from tasks.extract.crawl.resolver import CheckedResolver
from tasks.extract.crawl.robots_middleware import RobotsMiddleware
from tasks.extract.crawl.scheduler import CrawlDelayThrottle, PoliteScheduler
from tasks.extract.crawl.spider import SiteSpider
from tasks.extract.sources.site import INDEX_NAME, PAGES_PREFIX, ROBOTS_NAME, SUMMARY_NAME, SiteSource

logger = logging.getLogger(__name__)

LOCK_SECONDS = 10
"""Time to wait for another process to leave the folder, in seconds."""
_HTTP = "scrapy.core.downloader.handlers.http11.HTTP11DownloadHandler"
_INDEX = pa.schema(
    [
        ("url", pa.string()),
        ("outcome", pa.string()),
        ("detail", pa.string()),
        ("http_status", pa.int32()),
        ("depth", pa.int32()),
        ("referrer", pa.string()),
        ("tries", pa.int32()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("fetched_at", pa.string()),
        ("server_address", pa.string()),
        ("part", pa.string()),  # the evidence part that holds the page
    ]
)


def build_settings(crawl: Crawl) -> dict[str, Any]:
    """Scrapy's settings: its engine, downloader and auto-throttle, and nothing that it would do on its own account."""
    config = crawl.config
    return {
        "CRAWL": crawl,
        "SCHEDULER": PoliteScheduler,
        "TWISTED_DNS_RESOLVER": CheckedResolver,
        "DOWNLOADER_MIDDLEWARES_BASE": {},
        "DOWNLOADER_MIDDLEWARES": {RobotsMiddleware: 100},
        "SPIDER_MIDDLEWARES_BASE": {},
        "EXTENSIONS_BASE": {},
        "EXTENSIONS": {CrawlDelayThrottle: 0},
        "DOWNLOAD_HANDLERS_BASE": {"http": _HTTP, "https": _HTTP},
        "DOWNLOAD_MAXSIZE": config.max_page_bytes,
        "DOWNLOAD_WARNSIZE": 0,
        "DOWNLOAD_VERIFY_CERTIFICATES": True,
        "DOWNLOAD_DELAY": config.delay,
        "DOWNLOAD_DELAY_JITTER": 0,  # a delay is a promise
        "CONCURRENT_REQUESTS": config.concurrency,
        "CONCURRENT_REQUESTS_PER_DOMAIN": config.concurrency_per_host,
        "AUTOTHROTTLE_ENABLED": True,
        "AUTOTHROTTLE_START_DELAY": config.delay,
        "AUTOTHROTTLE_MAX_DELAY": max(60.0, config.delay),
        "AUTOTHROTTLE_TARGET_CONCURRENCY": float(config.concurrency_per_host),
        "LOG_LEVEL": "WARNING",
        "LOG_FORMAT": "%(asctime)s %(levelname)s %(name)s: %(message)s",
        "LOG_DATEFORMAT": "%H:%M:%S",
        "URLLENGTH_LIMIT": config.max_url_chars,
    }


def run_crawl(config: SiteSource, folder: Path) -> bool:
    """Crawl until nothing waits. False when it was asked to stop before."""
    crawl = Crawl.open(config, folder)
    try:
        process = AsyncCrawlerProcess(build_settings(crawl))
        crawler = process.create_crawler(SiteSpider)
        process.crawl(crawler)
        process.start()
        ended = not crawl.frontier.has_waiting() and not crawl.frontier.on_their_way.total()
        if ended:
            crawl.frontier.end()
            write_results(crawl.frontier, folder, config)
        return ended
    finally:
        crawl.close()


def write_results(frontier: Frontier, folder: Path, config: SiteSource) -> None:
    """Write what is to be kept of a crawl that has ended; the counts last."""
    out = folder / "out"
    out.mkdir(exist_ok=True)
    archive = folder / "crawl.warc.gz"
    about = {
        "software": f"pairmill ({config.extracted_with})",
        "format": "WARC File Format 1.1",
        "conformsTo": "http://iipc.github.io/warc-specifications/specifications/warc-format/warc-1.1/",
        "robots": "classic",
        "http-header-user-agent": config.user_agent_header,
        "isPartOf": config.edition or "pairmill",
    } | ({"operator": config.contact} if config.contact else {})
    pages = (row for row in frontier.rows() if row["outcome"] == "archived")
    parts: dict[str, str] = {}
    number = 0
    while rows := list(islice(pages, config.pages_per_part)):
        name = f"{PAGES_PREFIX}{number:05d}.warc.gz"
        write_sorted(archive, rows, out / name, about)
        parts |= {row["url"]: name for row in rows}
        number += 1
    write_sorted(archive, frontier.robots(), out / ROBOTS_NAME, about)
    with pq.ParquetWriter(out / INDEX_NAME, _INDEX, compression="zstd") as writer:
        index = frontier.rows()
        while rows := list(islice(index, 50_000)):
            named = [{**row, "part": parts.get(row["url"])} for row in rows]
            writer.write_table(pa.Table.from_pylist(named, _INDEX))
    done = folder / "out" / f".{SUMMARY_NAME}"
    done.write_text(json.dumps(frontier.summary()))
    done.replace(out / SUMMARY_NAME)


def main(arguments: list[str]) -> int:
    """Run the job; 75 when it was stopped before its end, or another process holds the folder."""
    job = json.loads(Path(arguments[0]).read_text("utf-8"))
    folder = Path(job["folder"])
    _end_with(job["parent_pid"])
    try:
        with FileLock(folder / ".lock", timeout=LOCK_SECONDS):
            return 0 if run_crawl(SiteSource.model_validate(job["site"]), folder) else 75
    except Timeout:
        sys.stderr.write(f"another crawl holds {folder}\n")
        return 75


def _end_with(parent: int) -> None:
    """End this process soon after the one that started it."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(75)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
