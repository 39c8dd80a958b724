"""Measure what was fetched for the pairs of datasets: bytes by registrable domain, the period, and the types of content.

The rows of a part of `curate` are those of one raw shard, whose requests one evidence part of `download` records. So the
join needs the memory of one part, and the domains.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import polars as pl

from dataops.snapshot import EVIDENCE, Manifest, read_table
from dataops.store import Store
from dataops.trace.lineages import list_made
from dataops.web.urls import HOST, find_registrable_domain
from plugins.disclosure.subject import Chain

SHARE, SME_SHARE, SME_MOST = 0.10, 0.05, 1000
"""Share of the domains that the template asks for; of an enterprise of small or medium size, at most SME_MOST."""
_SITE = "pairmill-site/"
_NO_EVIDENCE = {
    "uid": pl.String,
    "bytes": pl.Int64,
    "fetched_at": pl.String,
    "content_type": pl.String,
    "archive": pl.String,
}
_MEASURED = ("images", "image_bytes", "captions", "caption_bytes")
_MERGED = 64
"""Number of parts after which their counts are summed."""


@dataclass(frozen=True)
class Domain:
    """What was fetched from one registrable domain."""

    name: str
    images: int
    image_bytes: int
    """Bytes of the images as fetched, each URL once; those without a record count as 0."""
    captions: int = 0
    """Captions of pages that an own crawl fetched."""
    caption_bytes: int = 0

    @property
    def bytes(self) -> int:
        """Size of the content."""
        return self.image_bytes + self.caption_bytes


@dataclass
class Fetched:
    """What was fetched for the pairs of some datasets."""

    domains: list[Domain] = field(default_factory=list[Domain])
    """Largest first."""
    images: int = 0
    """Images that were requested from a host."""
    archived: int = 0
    """Images that were taken from archives, without a request."""
    unsized: int = 0
    """Images whose size as fetched is not recorded."""
    first: str = ""
    """Time of the first request that is recorded, ISO 8601; "" for none."""
    last: str = ""
    types: Counter[str] = field(default_factory=Counter[str])
    """Images by the Content-Type of their response."""

    def select_top(self, *, is_sme: bool) -> list[Domain]:
        """Return the domains that the template asks for."""
        share = SME_SHARE if is_sme else SHARE
        number = math.ceil(round(len(self.domains) * share, 6))  # 10% of 30 is 3, not 3.0000000000000004
        return self.domains[: min(number, SME_MOST) if is_sme else number]


def measure(chains: Sequence[Chain], store: Store) -> Fetched:
    """Return what was fetched for the pairs of datasets. Raises: CorruptPart, StorageError."""
    fetched, counted = Fetched(), list[pl.DataFrame]()
    for chain in chains:
        has_repeats, urls = not _has_each_url_once(chain), list[pl.DataFrame]()
        for rows in _list_rows(chain, store):
            counted += _count(rows, fetched)
            if has_repeats:
                urls.append(_requested(rows).select(_host("url"), pl.col("url").hash().alias("url"), "bytes"))
            if len(counted) > _MERGED:
                counted = [_sum(counted, "host")]
        counted += [_subtract_repeats(pl.concat(urls))] if urls else []
    if not counted:
        return fetched
    hosts = _sum(counted, "host")
    names = [find_registrable_domain(host) or host for host in hosts["host"]]
    by_domain = _sum([hosts.with_columns(pl.Series("domain", names, pl.String))], "domain")
    domains = [Domain(*row) for row in by_domain.select("domain", *_MEASURED).iter_rows()]
    fetched.domains = sorted(domains, key=lambda one: (-one.bytes, -one.images, one.name))
    return fetched


def _list_rows(chain: Chain, store: Store) -> Iterator[pl.DataFrame]:
    """Yield the pairs of a dataset with the evidence of their images, part by part."""
    columns = ["uid", "url", "page_url", "caption", "extracted_with"]
    curates = list_made(chain.lineages, "curate")
    downloads = {one["curate"].key: one.get("download") for one in chain.lineages if "curate" in one}
    known = [one for one in curates if _has_parts(one, store)]
    kept = sum(curate.counts.kept for curate in known)
    packed = (
        None if kept == chain.pairs else _read_uids(chain.pack, store)
    )  # a takedown removed some, or some are missing
    found = [pl.Series("uid", [], pl.String)]
    for curate in known:
        download = downloads[curate.key]
        for part in curate.named("part-", ".parquet"):
            rows = pl.DataFrame(pl.from_arrow(read_table(store, curate.path(part.name), columns)))
            if packed is not None:
                rows = rows.join(packed, on="uid", how="semi")
                found.append(rows["uid"])
            yield rows.join(_read_evidence(download, part.name.replace("part-", EVIDENCE), store), on="uid", how="left")
    if packed is None or not packed.height > sum(map(len, found)):
        return
    known_uids = pl.concat(found).to_frame()
    for part in chain.pack.named("part-", ".parquet"):
        rows = pl.DataFrame(pl.from_arrow(read_table(store, chain.pack.path(part.name), columns)))
        rows = rows.join(known_uids, on="uid", how="anti")
        yield rows.join(pl.DataFrame(schema=_NO_EVIDENCE), on="uid", how="left")


def _has_each_url_once(chain: Chain) -> bool:
    """Return whether the filter kept one pair of each URL, as it does by default; its absence counts as not."""
    filters = list_made(chain.lineages, "filter")
    return bool(filters) and all("url" in (one.config.get("dedupe") or ()) for one in filters)


def _subtract_repeats(urls: pl.DataFrame) -> pl.DataFrame:
    """Return the counts that make several pairs of one URL one image in bytes."""
    repeats = urls.filter(~pl.col("url").is_first_distinct()).group_by("host").agg(pl.col("bytes").fill_null(0).sum())
    zero = pl.lit(0, pl.Int64)
    sizes = (-pl.col("bytes")).alias("image_bytes")
    return repeats.select("host", zero.alias("images"), sizes, zero.alias("captions"), zero.alias("caption_bytes"))


def _requested(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows whose images were requested from a host."""
    return rows.filter(pl.col("archive").is_null())


def _has_parts(manifest: Manifest, store: Store) -> bool:
    return all(store.size(manifest.path(part.name)) is not None for part in manifest.named("part-", ".parquet")[:1])


def _read_uids(pack: Manifest, store: Store) -> pl.DataFrame:
    tables = (read_table(store, pack.path(part.name), ["uid"]) for part in pack.named("part-", ".parquet"))
    return pl.concat([pl.DataFrame(pl.from_arrow(table)) for table in tables])


def _read_evidence(download: Manifest | None, name: str, store: Store) -> pl.DataFrame:
    if download is None or not download.named(name) or store.size(download.path(name)) is None:
        return pl.DataFrame(schema=_NO_EVIDENCE)
    evidence = pl.DataFrame(pl.from_arrow(read_table(store, download.path(name), list(_NO_EVIDENCE))))
    return evidence.unique("uid", keep="last", maintain_order=True)


def _count(rows: pl.DataFrame, fetched: Fetched) -> Iterator[pl.DataFrame]:
    """Add the rows of a part to the totals, and yield their counts by host."""
    requested = _requested(rows)
    fetched.images += requested.height
    fetched.archived += rows.height - requested.height
    fetched.unsized += requested["bytes"].null_count()
    times = requested["fetched_at"].drop_nulls()
    if not times.is_empty():
        first, last = str(times.min()), str(times.max())
        fetched.first, fetched.last = min(fetched.first or first, first), max(fetched.last, last)
    kinds = requested.select(pl.col("content_type").str.split(";").list.first().str.strip_chars().str.to_lowercase())
    fetched.types.update(kinds["content_type"].drop_nulls().to_list())
    zero = pl.lit(0, pl.Int64)
    yield requested.group_by(_host("url")).agg(
        pl.len().cast(pl.Int64).alias("images"),
        pl.col("bytes").fill_null(0).sum().alias("image_bytes"),
        zero.alias("captions"),
        zero.alias("caption_bytes"),
    )
    crawled = rows.filter(pl.col("extracted_with").str.starts_with(_SITE) & pl.col("page_url").is_not_null())
    yield crawled.group_by(_host("page_url")).agg(
        zero.alias("images"),
        zero.alias("image_bytes"),
        pl.len().cast(pl.Int64).alias("captions"),
        pl.col("caption").str.len_bytes().cast(pl.Int64).sum().alias("caption_bytes"),
    )


def _host(column: str) -> pl.Expr:
    return pl.col(column).str.extract(HOST, 1).str.to_lowercase().fill_null("").alias("host")


def _sum(counted: Sequence[pl.DataFrame], by: str) -> pl.DataFrame:
    return pl.concat([one.select(by, *_MEASURED) for one in counted]).group_by(by).sum()
