"""The page of a download snapshot follows the manifest, is bounded, and shows text from the web as text."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from dataops.images.decode import make_preview
from dataops.schema import DOWNLOADED, conform, dropped_schema, uid
from dataops.snapshot import Counts, Draft, Manifest
from dataops.store import FolderStore
from tasks.download.outcome import EVIDENCE
from tasks.download.report import KEPT, PER_REASON, WITHOUT_IMAGE, report_html
from tests.hostile_text import HOSTILE, Page
from tests.manifests import build_manifest


def snapshot(store: FolderStore, shards: int, rows: int, caption: str, hosts: dict[str, Any]) -> Manifest:
    """Write shards of as many kept, 404 and too_small rows each; the kept and the small ones have a preview."""
    draft, parts = Draft(store, "download", "0" * 16), []
    small = make_preview(Image.effect_noise((300, 200), 90).convert("RGB"))
    for shard in range(shards):
        tables: dict[str, list[dict[str, Any]]] = {"part": [], "dropped": [], "evidence": []}
        for n in range(3 * rows):
            why = (None, "http_404", "too_small")[n % 3]
            url = f"http://{HOSTILE.replace(' ', '')}/{shard}/{n}.jpg"
            row = {"uid": uid(url, caption), "url": url, "caption": caption, "drop_reason": why}
            row |= {
                "original_width": None if why == "http_404" else 300,
                "original_height": 200,
                "error_message": HOSTILE,
            }
            tables["dropped" if why else "part"].append(row)
            tables["evidence"].append({"uid": row["uid"], "url": url, "preview": None if why == "http_404" else small})
        for name, schema in (("part", DOWNLOADED), ("dropped", dropped_schema(DOWNLOADED)), ("evidence", EVIDENCE)):
            table = conform(pa.Table.from_pylist(tables[name]), schema, name)
            parts.append(draft.put_table(f"{name}-{shard:05d}.parquet", table))
    total = shards * rows
    counts = Counts(input=3 * total, kept=total, dropped={"http_404": total, "too_small": total})
    facts = {"shards": shards, "bytes_fetched": 5_000_000, "hosts": hosts}
    return build_manifest("download", parts, counts=counts, facts=facts)


def test_report_shows_hostile_rows_as_text(tmp_path: Path) -> None:
    hosts = {HOSTILE: {"rows": 9, HOSTILE: 9}}
    page = Page(report_html(snapshot(FolderStore(tmp_path), 1, 2, HOSTILE, hosts), FolderStore(tmp_path)))
    assert "script" not in page.tags
    assert page.events == []
    assert page.tags.count("img") == 4, "two that were kept, two that were too small"
    assert page.tags.count("figure") == 6
    assert page.text.count("<script>alert(1)</script>") >= 6


def test_report_is_bounded_and_its_images_are_small(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    page = report_html(
        snapshot(store, 40, 12, "x" * 5000, {f"h{n}.test": {"rows": 1, "dns": 1} for n in range(40)}), store
    )
    assert Page(page).tags.count("figure") == KEPT + PER_REASON + WITHOUT_IMAGE
    assert len(page) < 400_000
    with Image.open(io.BytesIO(make_preview(Image.new("RGB", (3000, 100))))) as small:
        assert max(small.size) <= 112
