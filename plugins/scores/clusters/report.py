"""The page of a curate snapshot with clusters: their sizes, and images of some of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from dataops.formatting import format_quantity
from dataops.snapshot import Manifest, load_manifest, read_table
from dataops.store import Store
from plugins.scores.clusters.clustering import CLUSTERS_PART
from plugins.scores.clusters.config import ClustersFacts
from tasks.pack.card_samples import add_raw_previews
from tasks.reports.page import evenly_spaced, gallery_rows, render

SHOWN, IMAGES = 12, 8
"""Number of clusters whose images are shown, and of kept images of each."""
_COLUMNS = ["uid", "caption", "key", "shard", "original_width", "original_height", "image_cluster", "centroid_distance"]


def report_html(manifest: Manifest, store: Store) -> str:
    """Return the page of a snapshot of the stage `curate` that has clusters, with images from the raw shards."""
    facts = ClustersFacts.of(manifest)
    clusters = pl.DataFrame(read_table(store, manifest.path(CLUSTERS_PART), ["rows"])).with_row_index("image_cluster")
    clusters = clusters.filter(pl.col("rows") > 0).sort(["rows", "image_cluster"], descending=[True, False])
    chosen = clusters[_spread(clusters.height)]
    rows = _read_examples(manifest, store, chosen["image_cluster"].to_list())
    return render(
        Path(__file__).with_name("clusters.html"),
        title=f"Clusters of curate {manifest.key}",
        facts=facts,
        figures=_figures(facts),
        largest={f"cluster {number}": size for number, size in clusters.select("image_cluster", "rows").iter_rows()},
        clusters=list(_sections(chosen, rows)),
    )


def _spread(count: int) -> list[int]:
    """Return the places of SHOWN clusters, from the largest to the smallest."""
    return sorted({round(n * (count - 1) / (SHOWN - 1)) for n in range(SHOWN)}) if count else []


def _figures(facts: ClustersFacts) -> Iterator[tuple[str, str]]:
    yield "clusters that were fitted", f"{facts.fitted:,}"
    yield "clusters with pairs", f"{facts.clusters:,}"
    for share, name in (("0", "smallest"), ("0.5", "median"), ("1", "largest")):
        if share in facts.sizes:
            yield f"pairs of the {name} cluster", f"{facts.sizes[share]:,}"
    if facts.off_target:
        yield "pairs in clusters without a target", f"{facts.off_target:,}"
    yield "pairs whose image has no feature", f"{facts.without_feature:,}"


def _read_examples(manifest: Manifest, store: Store, clusters: Sequence[int]) -> pl.DataFrame:
    """Return kept rows of some clusters, from some parts, with their previews."""
    frames = [pl.DataFrame(schema={"uid": pl.String, "image_cluster": pl.Int32})]
    for part in evenly_spaced(manifest.named("part-", ".parquet")):
        rows = pl.DataFrame(read_table(store, manifest.path(part.name), _COLUMNS))
        frames.append(rows.filter(pl.col("image_cluster").is_in(clusters)))
    rows = pl.concat(frames, how="diagonal_relaxed").sort("uid")
    found = rows.group_by("image_cluster", maintain_order=True).head(IMAGES).to_dicts()
    for row in found:
        row["preview"] = None
    key = next(one.key for one in manifest.inputs if one.stage == "download")
    download = load_manifest(store, "download", key)
    if download is not None:
        add_raw_previews(store, download, found)
    return pl.DataFrame(found, infer_schema_length=None) if found else rows.head(0)


def _sections(clusters: pl.DataFrame, rows: pl.DataFrame) -> Iterator[dict[str, Any]]:
    for row in clusters.to_dicts():
        examples = rows.filter(pl.col("image_cluster") == row["image_cluster"])
        yield {
            "title": f"Cluster {row['image_cluster']}",
            "note": f"{format_quantity(row['rows'], 'pair')}.",
            "rows": gallery_rows(examples.to_dicts()),
        }
