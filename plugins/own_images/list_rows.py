"""Converts rows of a pair list to rows of `pairs`: canonical URLs, normalised captions, and drop reasons.

Most published lists are already clean: values that match a regular expression for the canonical form are kept; all others
go through the functions for pages (dataops.web.urls, dataops.web.captions).
"""

from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from dataops.reasons import Reason
from dataops.web.captions import normalise_caption
from dataops.web.urls import BadUrl, canonicalise_url, truncate_url
from plugins.own_images.lists import RawRows

CAPTION_SOURCE = "pair_list"

# Matches URLs that canonicalise_url returns unchanged: no port, no IP address (the last label is letters), a host of at
# most 245 characters, only characters of RFC 3986 in path and query, no fragment. _DOTTED finds dot segments.
_PLAIN_URL = (
    r"^https?://(?:[a-z0-9_-]{1,40}\.){1,5}[a-z]{2,40}"
    r"/[A-Za-z0-9!$%&'()*+,./:;=@_~-]*(?:\?[A-Za-z0-9!$%&'()*+,./:;=@_~?\[\]|-]+)?$"
)
_DOTTED = r"/(?:\.|%2[eE])"
_PLAIN_CAPTION = r"^[!-~]+(?: [!-~]+)*$"


def build_pair_table(rows: RawRows, max_caption_chars: int, max_url_chars: int, kinds: Sequence[str] = ()) -> pa.Table:
    """Return the rows as a table, then a row for each further caption that is not empty.

    Args:
        kinds: caption_source of each further caption of a row.

    Its columns are url, caption, caption_source, page_url, source_offset (the number of the row), extra and drop_reason
    (no_url, data_url, not_http, bad_url, url_too_long, no_caption or null).
    """
    urls, reasons = canonicalise_urls(rows.urls, max_url_chars)
    captions = normalise_captions(rows.captions, max_caption_chars)
    for i, caption in enumerate(captions):
        if not caption and reasons[i] is None:
            reasons[i] = Reason.NO_CAPTION
    pages: list[str | None] = [None] * len(urls)
    if any(rows.pages):
        page_urls, page_reasons = canonicalise_urls(rows.pages, max_url_chars)
        pages = [None if reason else url for url, reason in zip(page_urls, page_reasons, strict=True)]
    table = pa.table(
        {
            "url": pa.array(urls, pa.string()),
            "caption": pa.array(captions, pa.string()),
            "caption_source": pa.repeat(pa.scalar(CAPTION_SOURCE), len(urls)),
            "page_url": pa.array(pages, pa.string()),
            "source_offset": pa.array(rows.numbers, pa.int64()),
            "extra": pa.array(rows.extras, pa.string()),
            "drop_reason": pa.array(reasons, pa.string()),
        }
    )
    return pa.concat_tables(
        [table, *(_further_rows(table, rows, n, kind, max_caption_chars) for n, kind in enumerate(kinds))]
    )


def _further_rows(table: pa.Table, rows: RawRows, number: int, kind: str, max_chars: int) -> pa.Table:
    """Return the rows of one kind of further captions, each with the URL and the origin of its row."""
    captions = normalise_captions([more[number] for more in rows.more], max_chars)
    there = [i for i, caption in enumerate(captions) if caption]
    reasons = [
        None if r == Reason.NO_CAPTION else r
        for r in table["drop_reason"].take(pa.array(there, pa.int64())).to_pylist()
    ]
    changed = {
        "caption": pa.array([captions[i] for i in there], pa.string()),
        "caption_source": pa.repeat(pa.scalar(kind), len(there)),
        "drop_reason": pa.array(reasons, pa.string()),
    }
    chosen = table.take(pa.array(there, pa.int64()))
    return pa.table({name: changed.get(name, chosen[name]) for name in table.column_names})


def canonicalise_urls(urls: Sequence[str | None], max_chars: int) -> tuple[list[str], list[str | None]]:
    """Canonicalise absolute URLs (dataops.web.urls).

    Returns: the URL and the reason (None if usable) of each; an unusable URL is truncated.
    """
    series = pl.Series(urls, dtype=pl.String)
    plain = series.str.contains(_PLAIN_URL) & ~series.str.contains(_DOTTED) & (series.str.len_bytes() <= max_chars)
    result = [url or "" for url in urls]
    reasons: list[str | None] = [None] * len(urls)
    for i in (~plain.fill_null(False)).arg_true().to_list():
        try:
            result[i] = canonicalise_url(result[i], "", max_chars)
        except BadUrl as bad:
            result[i], reasons[i] = truncate_url(result[i], max_chars), bad.reason
    return result, reasons


def normalise_captions(captions: Sequence[str | None], max_chars: int) -> list[str]:
    """Normalise captions (dataops.web.captions); None becomes ''."""
    series = pl.Series(captions, dtype=pl.String)
    plain = series.str.contains(_PLAIN_CAPTION) & (series.str.len_bytes() <= max_chars)
    result = [caption or "" for caption in captions]
    for i in (~plain.fill_null(False)).arg_true().to_list():
        result[i] = normalise_caption(result[i], max_chars)
    return result
