"""Rows of a pair list as rows of `pairs`: addresses canonical, captions normal, and a reason for each that leaves.

Most published lists are clean already: what a regular expression proves to be in its normal form is taken as it is; the
rest goes through the functions that pages go through (dataops.web.urls, dataops.web.captions).
"""

from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from dataops.pair_lists.reader import RawRows
from dataops.web.captions import normalise_caption
from dataops.web.urls import BadUrl, canonicalise_url, truncate_url

CAPTION_SOURCE = "pair_list"

# Addresses that canonical_url gives back as they are: no port, no address literal (the last label is letters), at most 245
# characters of host, in path and query only what RFC 3986 allows, no fragment. Dot segments are looked for apart.
_PLAIN_URL = (
    r"^https?://(?:[a-z0-9_-]{1,40}\.){1,5}[a-z]{2,40}"
    r"/[A-Za-z0-9!$%&'()*+,./:;=@_~-]*(?:\?[A-Za-z0-9!$%&'()*+,./:;=@_~?\[\]|-]+)?$"
)
_DOTTED = r"/(?:\.|%2[eE])"
_PLAIN_CAPTION = r"^[!-~]+(?: [!-~]+)*$"


def build_pair_table(rows: RawRows, max_caption_chars: int, max_url_chars: int) -> pa.Table:
    """The rows with the columns url, caption, caption_source, page_url, source_offset (the row's number), extra and
    drop_reason: no_url, data_url, not_http, bad_url, url_too_long, no_caption or null.
    """
    urls, reasons = canonicalise_urls(rows.urls, max_url_chars)
    captions = normalise_captions(rows.captions, max_caption_chars)
    for i, caption in enumerate(captions):
        if not caption and reasons[i] is None:
            reasons[i] = "no_caption"
    pages: list[str | None] = [None] * len(urls)
    if any(rows.pages):
        found, wrong = canonicalise_urls(rows.pages, max_url_chars)
        pages = [None if reason else url for url, reason in zip(found, wrong, strict=True)]
    return pa.table(
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


def canonicalise_urls(urls: Sequence[str | None], max_chars: int) -> tuple[list[str], list[str | None]]:
    """dataops.web.urls.canonicalise_url of each, absolute ones only; for one that cannot be used what a dropped row keeps of it.

    Returns the addresses, and the reasons of those that cannot be used.
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
    """dataops.web.captions.normalise_caption of each; empty for none."""
    series = pl.Series(captions, dtype=pl.String)
    plain = series.str.contains(_PLAIN_CAPTION) & (series.str.len_bytes() <= max_chars)
    result = [caption or "" for caption in captions]
    for i in (~plain.fill_null(False)).arg_true().to_list():
        result[i] = normalise_caption(result[i], max_chars)
    return result
