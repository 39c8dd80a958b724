"""Runs the crawl: `python -m plugins.crawl.job job.json`; job.json has the `[source]` table and a folder.

Started again on the same folder, it resumes. After the crawl it writes the results to `<folder>/out`:

    evidence-pages-00000.warc.gz ...   pages in the order of their URLs, `pages_per_part` each
    evidence-robots.warc.gz            each robots.txt that was read
    evidence-crawl.parquet             every URL, its outcome, and the part with its page
    crawl.json                         counts
"""

import json
import logging
import sqlite3
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import FileLock, Timeout
from scrapy.crawler import AsyncCrawlerProcess

from dataops.errors import DISK_FULL
from dataops.parquet import open_writer
from dataops.process import exit_with_parent
from plugins.crawl.archive import write_sorted
from plugins.crawl.context import Crawl
from plugins.crawl.download_handler import BoundedHandler
from plugins.crawl.frontier import Frontier
from plugins.crawl.politeness import (
    MAX_ROBOTS_BYTES,
    CheckedResolver,
    CrawlDelayThrottle,
    PoliteScheduler,
    RobotsMiddleware,
)
from plugins.crawl.source import FREE_SPACE, INDEX, PAGES, ROBOTS, SUMMARY_NAME, SiteSource
from plugins.crawl.spider import SiteSpider
from tasks.web.connection import MAX_HEADER_BYTES

logger = logging.getLogger(__name__)

LOCK_SECONDS = 10
"""Time to wait for another process to leave the folder, in seconds."""
_REMEDIES = {
    ("SQLITE_FULL", "SQLITE_IOERR"): FREE_SPACE,
    ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_CANTOPEN"): "end what else uses it, or make room on its disk",
}
"""Remedies by the beginnings of the names of SQLite's errors for which a rerun may succeed."""
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
    """Return Scrapy's settings: its engine, downloader and auto-throttle, without its other middlewares and extensions."""
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
        "DOWNLOAD_HANDLERS_BASE": {"http": BoundedHandler, "https": BoundedHandler},
        "RESPONSE_MAX_BYTES": max(config.max_page_bytes, MAX_ROBOTS_BYTES) + MAX_HEADER_BYTES,
        "DOWNLOAD_MAXSIZE": config.max_page_bytes,
        "DOWNLOAD_WARNSIZE": 0,
        "DOWNLOAD_VERIFY_CERTIFICATES": True,
        "DOWNLOAD_DELAY": config.delay,
        "DOWNLOAD_DELAY_JITTER": 0,  # the configured delay is a minimum
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
    """Crawl until no URL waits. Return False if the crawl was stopped before."""
    crawl = Crawl.open(config, folder)
    try:
        process = AsyncCrawlerProcess(build_settings(crawl))
        crawler = process.create_crawler(SiteSpider)
        process.crawl(crawler)
        process.start()
        if crawl.failure:
            raise crawl.failure
        is_done = not crawl.frontier.has_next() and not crawl.frontier.in_flight.total()
        if is_done:
            crawl.frontier.close_waiting()
            write_results(crawl.frontier, folder, config)
        return is_done
    finally:
        crawl.close()


def write_results(frontier: Frontier, folder: Path, config: SiteSource) -> None:
    """Write the results of a completed crawl; the counts are last, because they mark the results as complete."""
    out = folder / "out"
    out.mkdir(exist_ok=True)
    archive = folder / "crawl.warc.gz"
    info = {
        "software": f"pairmill ({config.extracted_with})",
        "format": "WARC File Format 1.1",
        "conformsTo": "http://iipc.github.io/warc-specifications/specifications/warc-format/warc-1.1/",
        "robots": "classic",
        "http-header-user-agent": config.user_agent_header,
        "isPartOf": config.edition or "pairmill",
    } | ({"operator": config.contact} if config.contact else {})
    pages = (row for row in frontier.iterate_rows() if row["outcome"] == "archived")
    parts: dict[str, str] = {}
    number = 0
    while rows := list(islice(pages, config.pages_per_part)):
        name = config.part_name(f"{PAGES}{number:05d}.warc.gz")
        write_sorted(archive, rows, out / name, info)
        parts |= {row["url"]: name for row in rows}
        number += 1
    write_sorted(archive, frontier.list_robots(), out / config.part_name(ROBOTS), info)
    with open_writer(out / config.part_name(INDEX), _INDEX) as writer:
        index = frontier.iterate_rows()
        while rows := list(islice(index, 50_000)):
            with_parts = [{**row, "part": parts.get(row["url"])} for row in rows]
            writer.write_table(pa.Table.from_pylist(with_parts, _INDEX))
    unfinished = out / f".{SUMMARY_NAME}"
    unfinished.write_text(json.dumps(frontier.summarise()), "utf-8")
    unfinished.replace(out / SUMMARY_NAME)


def main(arguments: list[str]) -> int:
    """Run the job. Return 75 if it was stopped before its end, if another process crawls in the folder, or if its disk is
    full; 2 if the frontier is damaged.
    """
    job = json.loads(Path(arguments[0]).read_text("utf-8"))
    folder = Path(job["folder"])
    exit_with_parent(job["parent_pid"])
    try:
        with FileLock(folder / ".lock", timeout=LOCK_SECONDS):
            return 0 if run_crawl(SiteSource.model_validate(job["site"]), folder) else 75
    except Timeout:
        sys.stderr.write(f"another process crawls in {folder}; wait until it ends\n")
        return 75
    except OSError as error:
        remedy = FREE_SPACE if error.errno in DISK_FULL else "see that its disk works and this user may write there"
        sys.stderr.write(f"cannot write in {folder}: {error}; {remedy}\n")
        return 75
    except sqlite3.Error as error:
        file, name = folder / "frontier.sqlite", error.sqlite_errorname
        found = next((remedy for names, remedy in _REMEDIES.items() if name.startswith(names)), None)
        remedy = found or f"delete {folder}, and the crawl starts again"
        sys.stderr.write(f"{file} cannot be used: {error}; {remedy}\n")
        return 75 if found else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
