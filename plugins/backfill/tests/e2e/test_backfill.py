"""`pairmill backfill` adds each crawl of a server in Common Crawl's layout to one dataset."""

import json
from collections import Counter

import pytest

from dataops.snapshot import read_parts
from dataops.store import FolderStore
from tasks.growth.versions import find_packs, list_newest
from tests.servers.common_crawl import CrawlServer
from tests.small_web import HOST
from tests.wat_files import json_record, page_value, warcinfo

pytest.importorskip("plugins.common_crawl")
pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def test_backfill_makes_a_version_of_each_crawl_also_after_a_kill_and_as_a_flow(pairmill):
    """Killed after the first version, the same command makes the second one only; the flow `curate` makes the third."""
    store = FolderStore(pairmill.folder / "store-backfill")
    images = sorted(pairmill.web.site.rglob("*.png"))[:12]
    urls = [f"http://{HOST}/{image.relative_to(pairmill.web.site)}" for image in images]

    def wat_of(chosen):
        links = [{"path": "IMG@/src", "url": url, "alt": f"A drawing of a thing in ink, {url[-9:]}"} for url in chosen]
        return warcinfo() + json_record("https://a.example/", page_value("https://a.example/", {"Links": links}))

    with CrawlServer() as crawl:
        crawl.publish("CC-MAIN-2026-43", {"a": wat_of(urls[:6])})
        crawl.publish("CC-MAIN-2026-47", {"b": wat_of(urls[3:9])})
        crawl.publish("CC-MAIN-2026-51", {"c": wat_of([*urls[:2], *urls[9:]])})
        config = pairmill.folder / "backfill.toml"
        config.write_text(
            f'name = "backfill"\nstore.uri = "{store.uri}"\ncurate.near_duplicates = false\n'
            f'[source]\nkind = "common_crawl"\ncrawl = "CC-MAIN-2026-43"\nnum_files = 1\nbase_url = "{crawl.url}"\n'
            f'[download]\nhost_rate = 0\ncontact = "mailto:a@b.test"\nconnect_to = {{"{HOST}" = "{pairmill.site}"}}\n'
        )
        each = (f"--each=source.crawl=CC-MAIN-2026-{week}" for week in (43, 47))
        command = ["backfill", config, *each]
        pairmill.run_and_kill(*command, when=lambda: any("version-" in name for name in store.names("grown")))
        pairmill(*command)
        flow = "import sys; from flows.pipeline import curate; curate(sys.argv[1], each=sys.argv[2:])"
        pairmill.run_code(flow, config, 'source.crawl="CC-MAIN-2026-47"', 'source.crawl="CC-MAIN-2026-51"')
    [newest] = list_newest(store)
    packs = find_packs(store, newest)
    found = [set(read_parts(store, one, columns=["url"])["url"].to_pylist()) for one in packs]
    assert found == [set(urls[:6]), set(urls[6:9]), set(urls[9:])]
    assert Counter(crawl.read()) == {"a": 1, "b": 1, "c": 1}
    runs = [json.loads(store.read(name)) for name in store.names("runs") if name.endswith(".json")]
    assert {run["attempts"][0]["flow"] for run in runs} == {"pipeline", "backfill", "curate"}
