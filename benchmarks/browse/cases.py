"""The cases: what a user waits for, compared with Polars over the same Parquet files where it can do the same."""

import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.browse.dataset import MODEL
from benchmarks.measure import Row, peak_bytes, time_in_turn
from dataops.snapshot import Manifest
from dataops.store import FolderStore
from plugins.browse.filters import Filter
from plugins.browse.images import Images
from plugins.browse.meaning import Meaning, NamedModel
from plugins.browse.rows import PAGE_ROWS, Selection, count_values, list_rows
from plugins.browse.site import Query, Site
from plugins.browse.views import ROW
from tasks.models.find import ModelFiles

OPEN_SECONDS, QUERY_SECONDS = 3.0, 1.0
"""The goals."""
WORD = "house"


@dataclass
class Result:
    """The rows of the result, and the seconds of each case."""

    rows: list[Row] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    equal: bool = True

    @property
    def details(self) -> dict[str, Any]:
        """What the JSON has besides the rows."""
        late = [name for name, value in self.seconds.items() if value > _goal(name)]
        return {
            "seconds": {name: round(value, 4) for name, value in self.seconds.items()},
            "cpu_seconds": {name: round(value, 4) for name, value in self.cpu_seconds.items()},
            "seconds_goal": {name: _goal(name) for name in self.seconds},
            "above_goal": late,
            "peak_bytes": peak_bytes(),
            "load": os.getloadavg()[0],
        }


def _goal(name: str) -> float:
    return OPEN_SECONDS if name == "open" else QUERY_SECONDS


def measure(manifest: Manifest, store: FolderStore, home: Path, times: int, show: Callable[[str], Any]) -> Result:
    """Open the dataset, and run each case several times."""
    result = Result()

    def run(name: str, ours: Callable[[], Any], count: int = times) -> Any:
        found: list[tuple[float, float]] = []
        for _ in range(count):
            wall, cpu = time.perf_counter(), time.process_time()
            value = ours()
            found.append((time.perf_counter() - wall, time.process_time() - cpu))
        result.seconds[name], result.cpu_seconds[name] = (
            sorted(one)[len(one) // 2] for one in zip(*found, strict=True)
        )
        show(f"{name:<28} {result.seconds[name]:8.3f} s, {result.cpu_seconds[name]:.3f} s of CPU time")
        return value

    def open_site() -> Site:
        site = Site((manifest, store), None, None, home)
        site.find(Query(Selection(site.dataset.view(site.dataset.main))), 0)
        return site

    with closing(run("open", open_site, 1)) as site:
        view = site.dataset.view(site.dataset.main)
        paths = list(view.paths)
        filters = (Filter("language", "is", "en"), Filter("clip_score", "min", "0.35"))
        queries = {
            "text query": Selection(view, terms=(WORD,)),
            "filter": Selection(view, filters=filters),
            "order": Selection(view, sort="clip_score"),
        }
        frames = {
            "text query": lambda: pl.scan_parquet(paths).filter(
                pl.col("caption").str.to_lowercase().str.contains(WORD, literal=True)
            ),
            "filter": lambda: pl.scan_parquet(paths).filter(
                (pl.col("language") == "en") & (pl.col("clip_score") >= np.float32(0.35))
            ),
            "order": lambda: pl.scan_parquet(paths).sort("clip_score", descending=True, maintain_order=True),
        }
        for name, selection in queries.items():
            run(name, lambda selection=selection: site.find(Query(selection), 0))
            ours, peer, total, other = time_in_turn(
                lambda selection=selection: site.find(Query(selection), 0).total,
                lambda frame=frames[name]: _polars_page(frame),
                times,
                time.process_time,
            )
            result.equal &= total == other
            result.rows.append(Row(f"{name}", 1 / ours, 1 / peer, "Polars", "queries/s of CPU time"))
        run("values of a column", lambda: count_values(site.database, Selection(view), "language"))
        run("histogram of a column", lambda: count_values(site.database, Selection(view), "original_width"))
        page = list_rows(site.database, queries["text query"])
        numbers = [row[ROW] for row in page]

        def thumbnails() -> None:
            images = Images(home / "browse" / "indexes")  # without what it keeps
            for row in page:
                images.get(site.dataset, view, row, "small")

        run(f"{len(page)} thumbnails", thumbnails)
        model = NamedModel("synthetic", ModelFiles(name="synthetic", path=home, digest=MODEL))
        meaning = Meaning(site.dataset, site.images, model, home, site.folder)
        run("locate features, once", meaning.coverage, 1)
        run("similar images", lambda: meaning.search(meaning.row_query(numbers[0]), None))
        run("map, once", meaning.coordinates, 1)
        run("map", lambda: meaning.density(None))
        meaning.close()
    return result


def _polars_page(frame: Callable[[], pl.LazyFrame]) -> int:
    total = frame().select(pl.len()).collect().item()
    frame().head(PAGE_ROWS).select("uid", "url", "caption", "shard", "key", "clip_score").collect()
    return total
