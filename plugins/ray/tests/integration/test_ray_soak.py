"""A million pairs and the demo's pictures on Ray, a node killed in the middle of each stage: the bytes of the local run.

Two to three minutes on two cores; `make ray` runs it. The cluster is two nodes of this machine, each with an address.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from dataops.home import CHECKOUT
from dataops.snapshot import Manifest
from dataops.store import FolderStore
from flows.config import RunConfig, load_config
from plugins.demo.build import build_demo_web
from plugins.demo.server import running_server
from plugins.ray.engine import RayExecutor
from tasks.curate.config import CurateConfig
from tasks.curate.stage import CURATE
from tasks.download.stage import DOWNLOAD
from tasks.engine.context import Context, Progress
from tasks.engine.executor import Executor, LocalExecutor
from tasks.engine.stage import make, plan
from tasks.extract.sources.pairs import PairsSource
from tasks.extract.stage import EXTRACT
from tasks.filter.config import FilterConfig
from tasks.filter.stage import FILTER
from tests.servers.ray_nodes import NODE, OTHER, head_node

pytest.importorskip("ray", reason="RAY IS NOT INSTALLED: nothing of execution.engine = ray is tested; `make ray` does")
pytestmark = [pytest.mark.timeout(1200), pytest.mark.filterwarnings("ignore")]
ROWS, FILES = 1_000_000, 8
DEMO = CHECKOUT / "configs" / "demo.toml"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with head_node() as cluster:
        yield cluster


@contextmanager
def doomed_node(cluster: Any, there: Callable[[], int], enough: int) -> Iterator[Progress]:
    """Start a second node; yield a progress display that kills it when so many tasks are finished."""
    node, killed = cluster.add_node(**NODE, **OTHER), list[int]()

    def progress(done: float, total: int, line: str) -> None:
        if not killed and (count := there()) >= enough:
            killed.append(count)
            cluster.remove_node(node, allow_graceful=False)

    try:
        yield progress
        assert killed, "the node was there until the end"
    finally:
        if not killed:
            cluster.remove_node(node)


def pair_lists(folder: Path) -> list[str]:
    """Write eight lists with a million pairs, a third of which share their URL with others."""
    folder.mkdir()
    words = np.array(["the old", "a red", "boat", "harbour", "house on", "hill by", "river in", "winter", "of two men"])
    paths = []
    for number in range(FILES):
        random = np.random.default_rng(number)
        pictures = random.integers(0, ROWS, ROWS // FILES)
        chosen = words[random.integers(0, len(words), (7, len(pictures)))]
        captions = pl.DataFrame({str(n): column for n, column in enumerate(chosen)} | {"n": pictures % 1009})
        text = captions.select(text=pl.concat_str(pl.all(), separator=" "))["text"]
        urls = pl.Series(pictures).cast(pl.String)
        frame = pl.DataFrame({"n": urls, "host": pictures % 997, "text": text})
        url = pl.concat_str(pl.lit("http://h"), "host", pl.lit(".example/"), "n", pl.lit(".jpg"))
        paths.append(folder / f"{number}.parquet")
        frame.select(url=url, text="text").write_parquet(paths[-1])
    return [str(path) for path in paths]


def finished(folder: Path, step: str) -> Callable[[], int]:
    """Return the number of finished parts of a step."""
    return lambda: len(list(folder.glob(f"*/_work/{step}-*.json")))


def test_million_pairs_finish_when_a_node_is_killed_in_extract_and_in_the_exchange_of_filter(
    cluster: Any, tmp_path: Path
) -> None:
    lists = pair_lists(tmp_path / "lists")
    config = FilterConfig.model_validate({"languages": ["en"], "dedupe": ["url", "pair", "caption"]})
    in_partitions = config.model_copy(update={"memory_limit_bytes": 64 << 20})  # five of them

    def pairs_of(where: Context) -> Manifest:
        return make(plan(EXTRACT, PairsSource(paths=lists), 0, []), where)

    def kept_of(pairs: Manifest, config: FilterConfig, where: Context) -> Manifest:
        return make(plan(FILTER, config, 0, [pairs]), where)

    local = context(tmp_path / "here", LocalExecutor())
    pairs = pairs_of(local)
    kept = kept_of(pairs, config, local)
    there, ray_cluster = tmp_path / "there", RayExecutor(cluster.address)
    with doomed_node(cluster, finished(there / "extract", "extract"), 2) as kill:
        far_pairs = pairs_of(context(there, ray_cluster, kill))
    with doomed_node(cluster, finished(there / "filter", "drop_duplicates"), 1) as kill:
        far_kept = kept_of(far_pairs, in_partitions, context(there, ray_cluster, kill))
    assert kept.counts.input == ROWS
    assert digests(pairs, kept) == digests(far_pairs, far_kept)


def test_demo_finishes_when_a_node_is_killed_in_curate(cluster: Any, tmp_path: Path) -> None:
    here, there, ray_cluster = tmp_path / "here", tmp_path / "there", RayExecutor(cluster.address)
    web = build_demo_web(tmp_path / "web")
    with running_server(web.site) as server:
        settings = [
            f"source.paths={json.dumps([str(path) for path in web.warcs])}",
            f"filter.balance.queries={json.dumps(str(web.queries))}",
            f'download.connect_to={{"{web.host}" = "127.0.0.1:{server.server_port}"}}',
            "download.shard_size=250",
            f"evaluate.suite={json.dumps(str(DEMO.parent / 'suites' / 'demo.toml'))}",
            f"evaluate.data={json.dumps(str(web.suite_root))}",
        ]
        config = load_config(DEMO, settings, until="curate")
        pairs, kept = first_two(config, here, LocalExecutor())
        downloaded = make(plan(DOWNLOAD, config.download, 0, [kept]), context(here, LocalExecutor()))
    curated = make(plan(CURATE, CurateConfig(), 0, [downloaded]), context(here, LocalExecutor()))
    far = first_two(config, there, ray_cluster)
    shutil.copytree(here / "download", there / "download")  # what the web said is fetched once
    with doomed_node(cluster, finished(there / "curate", "inspect_shard"), 4) as kill:
        far_curated = make(plan(CURATE, CurateConfig(), 0, [downloaded]), context(there, ray_cluster, kill))
    assert digests(pairs, kept, curated) == digests(*far, far_curated)
    assert curated.counts.kept > 1000


def first_two(config: RunConfig, folder: Path, executor: Executor) -> tuple[Manifest, Manifest]:
    pairs = make(plan(EXTRACT, config.source, 0, []), context(folder, executor))
    return pairs, make(plan(FILTER, config.filter, 0, [pairs]), context(folder, executor))


def context(folder: Path, executor: Executor, progress: Progress = lambda done, total, line: None) -> Context:
    return Context(store=FolderStore(folder), home=folder, workers=2, executor=executor, progress=progress)


def digests(*manifests: Manifest) -> list[Any]:
    return [(m.key, m.content_digest, [(part.name, part.sha256) for part in m.parts]) for m in manifests]
