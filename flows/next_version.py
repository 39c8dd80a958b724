"""Make the next version of a dataset that grows, of the snapshots of a run."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pyarrow as pa

from dataops.errors import CorruptPart, NothingLeft
from dataops.formatting import format_quantity
from dataops.kernels.hashes import hash128, uid_halves
from dataops.reasons import Reason
from dataops.snapshot import Manifest, read_parts
from dataops.stages import SOURCE
from dataops.store import Store
from flows.config import RunConfig
from flows.listeners.base import LiveRun
from tasks.curate.inspect_images import THUMBNAILS, caption_scopes
from tasks.download.config import may_succeed_later
from tasks.filter.added_steps import SEEN
from tasks.growth.tables import SCHEMAS, add_rows, put_object
from tasks.growth.versions import Added, Kind, Table, Version, create_version

logger = logging.getLogger(__name__)

REPEATED = (SEEN, Reason.EXACT_DUPLICATE, Reason.NEAR_DUPLICATE)
"""Drop reasons of pairs that the dataset has already; also of those that a run itself has twice."""


def adds_nothing(run: LiveRun, error: BaseException) -> bool:
    """Return whether a run ends because nothing is new to the version that its dataset adds to; log it then."""
    base = run.config.base
    if base is None or not base.packs or not isinstance(error, NothingLeft):
        return False
    logger.info("nothing is new to version %d of %s: %s", base.number, base.line, error)
    if "extract" not in run.manifests:  # there is no next version
        run.record.version = base.name
    return True


def grow(run: LiveRun) -> None:
    """Record what a run found as the next version of its dataset, if that grows.

    Raises: ContractError if another run has added to the same version.
    """
    base = run.config.base
    if base is None or run.record.version:
        return
    version = add_run(run.context.store, run.config, run.manifests, run.record.run_id)
    run.record.version = version.name
    run.save()
    logger.info(
        "version %d of %s: %s new, %s repeated, %s in all (%s)",
        *(version.number, version.line, f"{version.new:,}", f"{version.repeated:,}"),
        *(format_quantity(version.pairs, "pair"), format_quantity(len(version.packs), "pack")),
    )


def add_run(store: Store, config: RunConfig, manifests: Mapping[str, Manifest], run_id: str) -> Version:
    """Write the next version of a dataset, with what a run found to be new.

    Args:
        config: as the run records it (RunConfig.with_recorded_base).
        manifests: the run's snapshots by stage: those up to `pack`, or up to the stage after which no row was left.

    Raises: ContractError if another run has made this version.
    """
    base, number, pack = config.base, config.grow and config.grow.number, manifests.get("pack")
    assert base is not None
    assert number is not None
    images = _list_images(store, manifests.get("curate"), pack)
    rows: dict[Kind, pa.Table] = {
        "files": _list_files(manifests["extract"]),
        "urls": _list_urls(store, manifests.get("download")),
        "images": images.select(SCHEMAS["images"].names).to_arrow(),
        "places": images.with_row_index("row")
        .with_columns(version=pl.lit(number, pl.UInt32))
        .select(SCHEMAS["places"].names)
        .to_arrow(),
    }
    tables = base.tables_of("thumbnails")
    for kind, new in rows.items():
        tables += add_rows(store, base, number, kind, new)
    if thumbnails := b"".join(images["thumbnail"].to_list()):
        tables.append(put_object(store, base.line, "thumbnails", (number, number), images.height, thumbnails, "bin"))
    added = [Added(key=pack.key, digest=pack.content_digest, pairs=pack.counts.kept)] if pack else []
    dropped = [reason for manifest in manifests.values() for reason in manifest.counts.dropped.items()]
    return create_version(
        store,
        Version(
            line=base.line,
            number=number,
            packs=(*base.packs, *added),
            tables=tuple(sorted(tables, key=_order)),
            new=pack.counts.kept if pack else 0,
            repeated=sum(count for reason, count in dropped if reason in REPEATED),
            run_id=run_id,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
    )


def _order(table: Table) -> tuple[str, int]:
    return table.kind, table.first


def _list_files(extract: Manifest) -> pa.Table:
    files = [(one.key, one.digest) for one in extract.inputs if one.stage == SOURCE]
    names, digests = zip(*files, strict=True) if files else ((), ())
    return pa.table([pa.array(names, pa.string()), pa.array(digests, pa.string())], schema=SCHEMAS["files"])


def _list_urls(store: Store, download: Manifest | None) -> pa.Table:
    """Return the URLs of a download that need not be asked for again."""
    if download is None:
        return SCHEMAS["urls"].empty_table()
    classes = tuple(download.config["retry"]["classes"])
    kept = read_parts(store, download, "part-", ["url"])
    dropped = read_parts(store, download, "dropped-", ["url", "drop_reason"])
    final = [not may_succeed_later(reason, classes) for reason in dropped["drop_reason"].to_pylist()]
    urls = pa.concat_arrays([*kept["url"].chunks, *dropped.filter(pa.array(final, pa.bool_()))["url"].chunks])
    hashes = np.unique(hash128(urls.drop_null()), axis=0)
    return pa.table([np.ascontiguousarray(hashes[:, 0]), np.ascontiguousarray(hashes[:, 1])], schema=SCHEMAS["urls"])


def _list_images(store: Store, curate: Manifest | None, pack: Manifest | None) -> pl.DataFrame:
    """Return the images of a dataset, with the columns of the tables `images` and `places`, and their thumbnails.

    Raises: CorruptPart if a thumbnail is missing.
    """
    if curate is None or pack is None:
        names = ("sha", "phash", "scope", "uid_high", "uid_low")
        return pl.DataFrame(schema={**dict.fromkeys(names, pl.UInt64), "thumbnail": pl.Binary})
    rows = pl.DataFrame(pl.from_arrow(read_parts(store, pack, "part-", ["uid", "sha256", "phash", "caption"])))
    thumbnails = pl.DataFrame(pl.from_arrow(read_parts(store, curate, THUMBNAILS, ["uid", "thumbnail"])))
    found = rows.sort("uid").join(thumbnails, on="uid", how="left", maintain_order="left")
    if missing := found.filter(pl.col("thumbnail").is_null())["uid"].to_list():
        raise CorruptPart(f"curate/{curate.key} has no thumbnail of {missing[0]}, which pack/{pack.key} has")
    halves = uid_halves(found["uid"].to_arrow())
    columns = {
        "sha": hash128(found["sha256"].to_arrow())[:, 0],
        "phash": np.array([int(value, 16) for value in found["phash"].to_list()], np.uint64),
        "scope": caption_scopes(found["caption"].to_list(), same_caption=curate.config["same_caption"]),
        "uid_high": halves[:, 0],
        "uid_low": halves[:, 1],
    }
    return found.select("thumbnail").with_columns(
        pl.Series(name, np.ascontiguousarray(values)) for name, values in columns.items()
    )
