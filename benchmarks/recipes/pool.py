"""Make the pool that all recipes filter: a list of image URLs and captions, and the site that serves the images."""

import mimetypes
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import polars as pl

from benchmarks.bootstrap import find_or_make
from dataops.errors import ConfigError
from dataops.shards.foreign_tar import open_foreign_tar
from dataops.snapshot import Manifest, read_parts
from dataops.store import FolderStore
from flows.config import RunConfig, load_config
from plugins.demo.build import DemoWeb, build_demo_web
from plugins.demo.command import CONFIG, demo_settings
from tasks.engine.context import Context
from tasks.extract.stage import EXTRACT

HOST = "pool.pairmill.test"
"""Host of the images of a pool that is a folder."""
MAIN_TASK = "twemoji-rest"
TARGET_EVERY = 10
"""Every tenth image of the demo's `twemoji-seen` is a target of the clusters, and is not evaluated."""
SUITE = """name = "recipes"
"""
TASK = """
[[task]]
name = "{name}"
kind = "classification"
root = "{name}"
split = "test"
"""


@dataclass(frozen=True)
class Pool:
    """What all recipes share."""

    context: Context
    config: RunConfig
    """Config of the demo; its source is the pool."""
    site: Path
    """Folder that serves the images."""
    hosts: tuple[str, ...]
    """Hosts of the images."""
    pairs: Manifest
    """Snapshot of `extract` with the pairs of the pool."""
    suite: Path
    suite_data: Path
    targets: Path
    """Folder of the target images of the clusters."""


def prepare_pool(folder: Path, source: Path | None, emoji: int | None, wrong: float) -> Pool:
    """Make the pool, as far as the folder does not hold it.

    Args:
        folder: home of the benchmark; it may be that of the demo.
        source: folder with shards of a pool (WebDataset), or None: the demo's site.
        emoji: number of emoji of the demo's site; None: all.
        wrong: share of the demo's captions that are replaced by that of the next image of the page.
    """
    web = build_demo_web(folder / "demo", limit=emoji)
    context = Context(store=FolderStore(folder / "store"), home=folder)
    work = folder / "recipes"
    work.mkdir(exist_ok=True)
    if source is None:
        config = load_config(CONFIG, demo_settings(web, folder, "127.0.0.1:1"))
        extracted = find_or_make(context, EXTRACT, config.source, 0)
        site, hosts, rows = web.site, (web.host,), list_demo_pairs(read_demo_pairs(context, extracted), wrong)
    else:
        site, hosts = work / f"site-{source.name}", (HOST,)
        rows = unpack_shards(source, site)
    listed = work / "pool.parquet"
    rows.write_parquet(listed, compression="zstd")
    settings = [*demo_settings(web, folder, "127.0.0.1:1"), 'source.kind="pairs"', f'source.paths=["{listed}"]']
    config = load_config(CONFIG, settings)
    pairs = find_or_make(context, EXTRACT, config.source, 0)
    suite_data, targets = split_targets(web, work)
    suite = work / "suite.toml"
    tasks = [MAIN_TASK, "twemoji-heldout", "openmoji-heldout"]
    suite.write_text(SUITE + "".join(TASK.format(name=name) for name in tasks), encoding="utf-8")
    return Pool(context, config, site, hosts, pairs, suite, suite_data, targets)


def read_demo_pairs(context: Context, extracted: Manifest) -> pl.DataFrame:
    """Return `page_url`, `url` and `caption` of all pairs of the demo's site."""
    return pl.DataFrame(read_parts(context.store, extracted, columns=["page_url", "url", "caption"]))


def list_demo_pairs(rows: pl.DataFrame, wrong: float) -> pl.DataFrame:
    """Return the pairs of the pool (`url`, `caption`): a share of them has the caption of the next image of its page."""
    rows = rows.unique().sort("page_url", "url", "caption")
    following = pl.col("caption").shift(-1).over("page_url").fill_null(pl.col("caption"))
    draws = [zlib.crc32("\0".join(row).encode()) / 2**32 for row in rows.iter_rows()]
    rows = rows.with_columns(caption=pl.when(pl.Series(draws) < wrong).then(following).otherwise(pl.col("caption")))
    return rows.select("url", "caption").unique().sort("url", "caption")


def unpack_shards(source: Path, site: Path) -> pl.DataFrame:
    """Write the images of shards to a site, and return the pairs (`url`, `caption`).

    Raises: ConfigError if the folder has no shard with an image and a .txt member of one name.
    """
    shutil.rmtree(site, ignore_errors=True)
    pairs = []
    for shard in sorted(source.glob("**/*.tar")):
        samples: dict[str, dict[str, bytes]] = {}
        with shard.open("rb") as file:
            for name, data in _read_members(file):
                stem, _, extension = name.rpartition(".")
                samples.setdefault(stem, {})[f".{extension}"] = data
        for number, (_, members) in enumerate(sorted(samples.items())):
            image = next(
                (name for name in members if (mimetypes.guess_type(f"a{name}")[0] or "").startswith("image/")), ""
            )
            if not image or ".txt" not in members:
                continue
            path = Path("img", shard.stem, f"{number:06d}{image}")
            (site / path).parent.mkdir(parents=True, exist_ok=True)
            (site / path).write_bytes(members[image])
            pairs.append((f"http://{HOST}/{path}", members[".txt"].decode("utf-8", "replace").strip()))
    if not pairs:
        raise ConfigError(f"--pool {source}: no .tar in it has an image and a .txt member of one name")
    return pl.DataFrame(pairs, schema=["url", "caption"], orient="row")


def _read_members(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    with open_foreign_tar(file, "r|") as tar:
        for info in tar:
            content = tar.extractfile(info) if info.isreg() else None
            if content:
                yield info.name, content.read()


def split_targets(web: DemoWeb, work: Path) -> tuple[Path, Path]:
    """Write MAIN_TASK, the demo's `twemoji-seen` without the targets, and a folder of the targets; return both folders."""
    data, targets = work / "suite", work / "targets"
    for name in ("twemoji-heldout", "openmoji-heldout"):
        shutil.copytree(web.suite_root / name, data / name, dirs_exist_ok=True)
    seen, rest = web.suite_root / "twemoji-seen", data / MAIN_TASK
    shutil.copytree(seen, rest, dirs_exist_ok=True)
    targets.mkdir(exist_ok=True)
    with tarfile.open(seen / "test" / "0.tar") as tar, tarfile.open(rest / "test" / "0.tar", "w") as out:
        for info in tar:
            content = tar.extractfile(info)
            assert content is not None
            if int(Path(info.name).stem) % TARGET_EVERY:
                out.addfile(info, content)
            elif info.name.endswith(".png"):
                (targets / info.name).write_bytes(content.read())
    return data, targets
