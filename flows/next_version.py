"""Make the next version of a dataset that grows, of the snapshots of a run."""

import logging
from collections.abc import Iterator, Mapping

import numpy as np
import polars as pl
import pyarrow as pa

from dataops.errors import ContractError, CorruptPart, NothingLeft
from dataops.formatting import format_now, format_quantity
from dataops.kernels.hashes import hash128, hash128_folded, uid_halves
from dataops.reasons import Reason
from dataops.snapshot import Manifest, load_manifest, read_parts, read_table
from dataops.stages import SOURCE
from dataops.store import Store
from flows.config import RunConfig
from flows.listeners.base import LiveRun
from tasks.curate.inspect_images import THUMBNAILS, caption_scopes
from tasks.curate.step import list_steps
from tasks.download.config import may_succeed_later
from tasks.engine.context import Context
from tasks.engine.stage import make, plan, reuse
from tasks.filter.added_steps import BALANCED, NO_QUERY, SEEN, kinds_of_rows, used_steps
from tasks.filter.config import FilterConfig
from tasks.filter.steps import CAPTION, DROP_REASONS
from tasks.filter.write import QUERY_COUNTS_PART
from tasks.growth.tables import SCHEMAS, add_rows, put_object
from tasks.growth.versions import Added, Table, Version, create_version, find_packs
from tasks.pack.config import PackConfig
from tasks.pack.stage import PACK

logger = logging.getLogger(__name__)

REPEATED = (SEEN, Reason.EXACT_DUPLICATE, Reason.NEAR_DUPLICATE)
"""Drop reasons of pairs that the dataset has already; also of those that a run itself has twice."""


def adds_nothing(run: LiveRun, error: BaseException) -> bool:
    """Return whether a run ends because nothing is new to the version that its dataset adds to; log it then."""
    base = run.config.base
    if base is None or not base.packs or not isinstance(error, NothingLeft):
        return False
    logger.info("nothing is new: %s. %s", error, base.describe())
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
    run.record.version, run.version = version.name, version
    run.save()
    logger.info("%s", version.describe())
    if run.config.grow and run.config.grow.compact is not None:
        compact(run.context, version, run.config.stage_config("pack"), run.config.seed, run.config.grow.compact)


def add_run(store: Store, config: RunConfig, manifests: Mapping[str, Manifest], run_id: str) -> Version:
    """Write the next version of a dataset, with what a run found to be new.

    Args:
        config: as the run records it (RunConfig.with_recorded_base).
        manifests: the run's snapshots by stage: those up to `pack`, or up to the stage after which no row was left; only
            those of `curate` and `pack` where pairs of files are added that a version has read.

    Raises: ContractError if another run has made this version.
    """
    base, number, pack = config.base, config.grow and config.grow.number, manifests.get("pack")
    assert base is not None
    assert number is not None
    images = _list_images(store, manifests.get("curate"), pack)
    places = images.with_row_index("row").with_columns(version=pl.lit(number, pl.UInt32))
    rows = {
        "files": _list_files(manifests.get("extract")),
        "urls": _list_urls(store, manifests.get("download")),
        "images": images.select(SCHEMAS["images"].names).to_arrow(),
        "places": places.select(SCHEMAS["places"].names).to_arrow(),
        **_list_captions(store, config.filter, manifests, pack),
    }
    kept = {step.table: step.keeps for step in list_steps(config.curate) if step.keeps} if "curate" in manifests else {}
    tables = [table for table in base.tables if table.kind not in rows and table.kind not in kept]
    for kind, name in kept.items():
        [part] = manifests["curate"].named(name)
        data = store.read(manifests["curate"].path(name))
        tables.append(put_object(store, base.line, kind, (number, number), part.rows, data, "parquet"))
    for kind, new in rows.items():
        tables += add_rows(store, base, number, kind, new.cast(SCHEMAS.get(kind, new.schema)))
    if thumbnails := b"".join(images["thumbnail"].to_list()):
        tables.append(put_object(store, base.line, "thumbnails", (number, number), images.height, thumbnails, "bin"))
    added = [Added.of(pack)] if pack else []
    dropped = [reason for manifest in manifests.values() for reason in manifest.counts.dropped.items()]
    repeated = sum(count for reason, count in dropped if reason in REPEATED)
    return create_version(
        store,
        Version(
            line=base.line,
            number=number,
            packs=(*base.packs, *added),
            tables=tuple(sorted(tables, key=_order)),
            new=pack.counts.kept if pack else 0,
            repeated=repeated,
            dropped=sum(count for _, count in dropped) - repeated,
            base=base.number,
            run_id=run_id,
            created_at=format_now(),
        ),
    )


def compact(context: Context, version: Version, config: PackConfig, seed: int, limit: int) -> Version | None:
    """Make the next version, with one dataset in place of those that fill no shard; None if there are fewer than `limit`.

    They are packed again from their snapshots of curate and download; those of which one was deleted stay. So a pair is
    packed again once in `limit` runs until its dataset fills a shard. Earlier versions keep their datasets.
    """
    store = context.store
    small = [one.pairs < config.shard_size and one.bytes < config.shard_bytes for one in version.packs]
    if sum(small) < limit:
        return None
    found = [_load_sources(store, pack) for pack in find_packs(store, version)]
    small = [is_small and bool(sources) for is_small, sources in zip(small, found, strict=True)]
    if sum(small) < limit:
        return None
    upstream = [source for sources, chosen in zip(found, small, strict=True) if chosen for source in sources]
    planned = plan(PACK, config, seed, upstream, store)
    merged = reuse(planned, context) or make(planned, context)
    kept = [one for one, chosen in zip(version.packs, small, strict=True) if not chosen]
    kept.insert(small.index(True), Added.of(merged))
    number = version.number + 1
    update = {"number": number, "base": version.number, "packs": tuple(kept), "run_id": "", "new": 0, "repeated": 0}
    update |= {"dropped": 0, "created_at": format_now()}
    try:
        compacted = create_version(store, version.model_copy(update=update))
    except ContractError as error:  # a run has added to the version meanwhile; the next one finds the small ones again
        logger.info("%s of %s stay small: %s", format_quantity(sum(small), "dataset"), version.line, error)
        return None
    logger.info("version %d of %s has one dataset in place of %d small ones", number, version.line, sum(small))
    return compacted


def _load_sources(store: Store, pack: Manifest) -> list[Manifest]:
    """Return the snapshots of curate and download of a dataset, in the order of its inputs; none if one was deleted."""
    found = [load_manifest(store, one.stage, one.key) for one in pack.inputs if one.stage in ("curate", "download")]
    return [one for one in found if one is not None] if all(found) else []


def _order(table: Table) -> tuple[str, int]:
    return table.kind, table.first


def _list_files(extract: Manifest | None) -> pa.Table:
    files = [(one.key, one.digest) for one in (extract.inputs if extract else ()) if one.stage == SOURCE]
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


def _list_captions(
    store: Store, config: FilterConfig, manifests: Mapping[str, Manifest], pack: Manifest | None
) -> dict[str, pa.Table]:
    """Return the rows of each kind of `kinds_of_rows` by which the filter of later runs knows the captions of this one."""
    kinds, found = kinds_of_rows(config), dict[str, pa.Table]()
    extract, filtered = manifests.get("extract"), manifests.get("filter")
    if extract is None or filtered is None:
        return found
    if "caption_counts" in kinds:
        late = [*DROP_REASONS, *(step.reason for step, _ in used_steps(config)), NO_QUERY, BALANCED]
        counts = [
            _hash_captions(rows).join(pl.concat([kept, dropped.filter(is_late).drop("drop_reason")]), on="uid")
            for is_late in [pl.col("drop_reason").is_in(late)]
            for rows, kept, dropped in zip(
                _read(store, extract, "part-", ["uid", "caption"]),
                _read(store, filtered, "part-", ["uid"]),
                _read(store, filtered, "dropped-", ["uid", "drop_reason"]),
                strict=True,
            )
        ]
        found["caption_counts"] = pl.concat(counts).group_by(CAPTION).agg(count=pl.len()).sort(CAPTION).to_arrow()
    if "queries" in kinds:
        found["queries"] = read_parts(store, filtered, QUERY_COUNTS_PART)
    if pack is None:
        return found
    pairs = pl.concat(_read(store, pack, "part-", ["uid", "url", "caption"])).sort("uid")
    if "captions" in kinds:  # as they were before personal data was masked: the filter compares these
        captions = [
            _hash_captions(rows).join(pairs, on="uid", how="semi")
            for rows in _read(store, extract, "part-", ["uid", "caption"])
        ]
        found["captions"] = pl.concat(captions).select(CAPTION).unique().sort(CAPTION).to_arrow()
    for step, table in used_steps(config):
        found |= step.keep(table, pairs)
    return found


def _read(store: Store, manifest: Manifest, prefix: str, columns: list[str]) -> Iterator[pl.DataFrame]:
    for part in manifest.named(prefix, ".parquet"):
        yield pl.DataFrame(pl.from_arrow(read_table(store, manifest.path(part.name), columns)))


def _hash_captions(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the distinct uids of rows (columns uid, caption) with the halves of the hashes of their captions."""
    rows = rows.unique("uid")
    hashes = hash128_folded(rows["caption"].to_arrow())
    halves = {name: np.ascontiguousarray(hashes[:, number]) for number, name in enumerate(CAPTION)}
    return rows.select("uid", **{name: pl.Series(values) for name, values in halves.items()})
