"""Rows of a pair list as rows of `pairs`: addresses canonical, captions normal, and a reason for each that leaves.

Most published lists are clean already: what a regular expression proves to be in its normal form is taken as it is; the
rest goes through the functions that pages go through (dataops.urls, dataops.captions).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa
import xxhash

from dataops.captions import normal_caption
from dataops.pair_lists import RawRows
from dataops.schema import PAIRS, dropped
from dataops.urls import BadUrl, bounded_url, canonical_url

CAPTION_SOURCE = "pair_list"

# Addresses that canonical_url gives back as they are: no port, no address literal (the last label is letters), at most 245
# characters of host, in path and query only what RFC 3986 allows, no fragment. Dot segments are looked for apart.
_PLAIN_URL = (
    r"^https?://(?:[a-z0-9_-]{1,40}\.){1,5}[a-z]{2,40}"
    r"/[A-Za-z0-9!$%&'()*+,./:;=@_~-]*(?:\?[A-Za-z0-9!$%&'()*+,./:;=@_~?\[\]|-]+)?$"
)
_DOTTED = r"/(?:\.|%2[eE])"
_PLAIN_CAPTION = r"^[!-~]+(?: [!-~]+)*$"


@dataclass(frozen=True)
class ListBounds:
    """How long addresses and captions may be, in characters."""

    caption: int
    url: int


def pair_tables(
    rows: RawRows, bounds: ListBounds, source: str, extracted_with: str, stage: str
) -> tuple[pa.Table, pa.Table]:
    """The kept rows (schema PAIRS) and the dropped ones: no_url, data_url, not_http, bad_url, url_too_long, no_caption.

    Args:
        source: the column `source`; `source_offset` is the row's number.
    """
    urls, reasons = canonical_urls(rows.urls, bounds.url)
    captions = normal_captions(rows.captions, bounds.caption)
    for i, caption in enumerate(captions):
        if not caption and reasons[i] is None:
            reasons[i] = "no_caption"
    uids = [
        xxhash.xxh3_128_hexdigest(f"{url}\0{caption}".encode()) for url, caption in zip(urls, captions, strict=True)
    ]
    pages = canonical_urls(rows.pages, bounds.url) if any(rows.pages) else None
    given = {
        "uid": uids,
        "url": urls,
        "caption": captions,
        "caption_source": [CAPTION_SOURCE] * len(urls),
        "page_url": [None if r else u for u, r in zip(*pages, strict=True)] if pages else [None] * len(urls),
        "source": [source] * len(urls),
        "source_offset": rows.numbers,
        "extracted_with": [extracted_with] * len(urls),
        "extra": rows.extras,
        "drop_reason": reasons,
        "drop_stage": [None if reason is None else stage for reason in reasons],
    }
    schema = dropped(PAIRS)
    columns = [pa.array(given[f.name], f.type) if f.name in given else pa.nulls(len(urls), f.type) for f in schema]
    table = pa.table(columns, schema=schema)
    keep = pa.array([reason is None for reason in reasons], pa.bool_())
    gone = pa.array([reason is not None for reason in reasons], pa.bool_())
    return table.filter(keep).select(PAIRS.names), table.filter(gone)


def canonical_urls(urls: Sequence[str | None], max_chars: int) -> tuple[list[str], list[str | None]]:
    """dataops.urls.canonical_url of each, absolute ones only; for one that cannot be used what a dropped row keeps of it.

    Returns the addresses, and the reasons of those that cannot be used.
    """
    series = pl.Series(urls, dtype=pl.String)
    plain = series.str.contains(_PLAIN_URL) & ~series.str.contains(_DOTTED) & (series.str.len_bytes() <= max_chars)
    result = [url or "" for url in urls]
    reasons: list[str | None] = [None] * len(urls)
    for i in (~plain.fill_null(False)).arg_true().to_list():
        try:
            result[i] = canonical_url(result[i], "", max_chars)
        except BadUrl as bad:
            result[i], reasons[i] = bounded_url(result[i], max_chars), bad.reason
    return result, reasons


def normal_captions(captions: Sequence[str | None], max_chars: int) -> list[str]:
    """dataops.captions.normal_caption of each; empty for none."""
    series = pl.Series(captions, dtype=pl.String)
    plain = series.str.contains(_PLAIN_CAPTION) & (series.str.len_bytes() <= max_chars)
    result = [caption or "" for caption in captions]
    for i in (~plain.fill_null(False)).arg_true().to_list():
        result[i] = normal_caption(result[i], max_chars)
    return result
