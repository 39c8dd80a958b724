"""`pairmill backfill` makes a dataset of each crawl of a server in Common Crawl's layout."""

from collections import Counter

import pytest

from dataops.home import CHECKOUT
from dataops.snapshot import find_manifest, read_parts
from dataops.store import FolderStore
from tests.servers.common_crawl import CrawlServer
from tests.small_pipeline import Pairmill
from tests.small_web import HOST
from tests.wat_files import json_record, page_value, warcinfo

pytestmark = pytest.mark.timeout(600)


def test_backfill_makes_a_dataset_of_each_crawl_without_the_pairs_before_it(pairmill: Pairmill):
    """Killed after the first version, the same command makes the second one only."""
    store = FolderStore(pairmill.folder / "store-backfill")
    images = sorted(pairmill.web.site.rglob("*.png"))[:9]
    urls = [f"http://{HOST}/{image.relative_to(pairmill.web.site)}" for image in images]

    def wat_of(chosen: list[str]) -> bytes:
        links = [{"path": "IMG@/src", "url": url, "alt": f"A drawing of a thing in ink, {url[-9:]}"} for url in chosen]
        return warcinfo() + json_record("https://a.example/", page_value("https://a.example/", {"Links": links}))

    with CrawlServer() as crawl:
        crawl.publish("CC-MAIN-2026-43", {"a": wat_of(urls[:6])})
        crawl.publish("CC-MAIN-2026-47", {"b": wat_of(urls[3:])})
        changed = [
            f"store.uri={store.uri}",
            f"source.base_url={crawl.url}",
            f'download.connect_to={{"{HOST}"="{pairmill.site}"}}',
            "download.host_rate=0",
            "curate.near_duplicates=false",
        ]
        settings = [argument for value in changed for argument in ("--set", value)]
        crawls = ["--crawl", "CC-MAIN-2026-43", "--crawl", "CC-MAIN-2026-47"]
        command = ["backfill", CHECKOUT / "configs" / "common-crawl.toml", *crawls, *settings]
        pairmill.run_and_kill(
            *command, when=lambda: any(name.endswith("manifest.json") for name in store.names("pack"))
        )
        result = pairmill.json(*command)
    assert [version["state"] for version in result["versions"]] == ["reused", "made"]
    datasets = [find_manifest(store, "pack", version["dataset"]) for version in result["versions"]]
    found = [set(read_parts(store, one, columns=["url"])["url"].to_pylist()) for one in datasets if one is not None]
    assert found == [set(urls[:6]), set(urls[6:])]
    assert Counter(crawl.read()) == {"a": 1, "b": 1}
