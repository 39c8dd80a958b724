"""Define the columns that stages pass on, and the identity of a pair.

Each stage keeps the columns that it got and adds its own. Rows that leave go to `dropped-*` parts,
with the columns that were known when they left and `drop_reason` and `drop_stage`.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import pyarrow as pa
import xxhash

from dataops import plugins
from dataops.errors import SchemaError


class Column(NamedTuple):
    """A column that an object of a plugin kind adds."""

    name: str
    type: pa.DataType
    meaning: str
    is_personal: bool = False
    """Whether it holds text or images that a takedown erases."""

    @property
    def field(self) -> pa.Field:
        """Return the field of a schema."""
        return pa.field(self.name, self.type)


PAIRS = pa.schema(
    [
        ("uid", pa.string()),
        ("url", pa.string()),
        ("caption", pa.string()),
        ("caption_source", pa.string()),
        ("page_url", pa.string()),
        ("source", pa.string()),
        ("source_offset", pa.int64()),
        ("extracted_with", pa.string()),
        ("page_language", pa.string()),
        ("page_opt_out", pa.string()),
        ("license", pa.string()),
        ("declared_width", pa.int32()),
        ("declared_height", pa.int32()),
        ("extra", pa.string()),
    ]
)
LANGUAGE = [pa.field("language", pa.string()), pa.field("language_score", pa.float32())]
BALANCE = [
    pa.field("query_ids", pa.list_(pa.uint32())),
    pa.field("sampling_probability", pa.float32()),
]
FETCH = [
    pa.field("key", pa.string()),
    pa.field("shard", pa.string()),
    pa.field("status", pa.string()),
    pa.field("error_message", pa.string()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("original_width", pa.int32()),
    pa.field("original_height", pa.int32()),
    pa.field("sha256", pa.string()),
]
INSPECTION = [
    pa.field("phash", pa.string()),
    pa.field("cluster", pa.string()),
    pa.field("evaluation_overlap", pa.string()),
]
CaptionKind = Literal[
    "alt", "title", "aria_label", "figcaption", "og", "filename", "pair_list", "keywords", "description", "synthetic"
]
"""Values of `caption_source`."""
CAPTIONS = pa.field(
    "captions",
    pa.list_(
        pa.struct(
            [
                *map(PAIRS.field, ("uid", "caption", "caption_source")),
                *LANGUAGE,
                *map(PAIRS.field, ("page_url", "source", "source_offset", "extracted_with")),
            ]
        )
    ),
)
"""Further captions of a row's image, each with its own uid and origin. Only tables of configs that ask for them have the
column: those with `filter.captions_per_image` above 1 or a table `[curate.recaption]`."""
DROP = [pa.field("drop_reason", pa.string()), pa.field("drop_stage", pa.string())]


class DropReason(NamedTuple):
    """Describe a value of the column drop_reason, for docs/reference/drop-reasons.md."""

    meaning: str
    """Why a row was dropped."""
    remedy: str = ""
    """The key to change, or another way to keep such rows; empty if there is none."""


MEANINGS = {
    "uid": "Identity of the pair: 32 hex digits of xxh3-128 over `url` + NUL + `caption`.",
    "url": "Absolute URL of the image, http or https; `source://NAME/PATH` for an image that the source NAME holds.",
    "caption": "Text of the pair.",
    "caption_source": "Origin of the caption: alt, title, aria_label, figcaption, og, filename, pair_list, keywords, "
    "description or synthetic.",
    "page_url": "URL of the page; null for a pair list without pages.",
    "source": "File of origin, as the config names it; after the name of its source and `/` if the source has a name.",
    "source_offset": "Position of the record in that file: in an archive, its first byte; in a pair list, the number of"
    " the row; in a crawl of a site, the number of the page. All count from 0.",
    "extracted_with": "Extractor and its version.",
    "page_language": "Language that `<html lang>` declares: a BCP 47 tag in lower case, such as `en-us`.",
    "page_opt_out": "Opt-out signals of the page, joined by commas, such as `noai,noimageai`; `rsl:URL` where a licence"
    " decides, which `download` reads.",
    "license": "URL of the licence that is declared nearest to the image, else that of `source.license`.",
    "declared_width": "Width that the page declares, in pixels.",
    "declared_height": "Height that the page declares, in pixels.",
    "extra": "Further columns of a pair list (`source.extra_columns`), as a JSON object.",
    "language": "Detected language of the caption; null if it was not detected.",
    "language_score": "Probability of the language, 0 to 1.",
    "query_ids": "Queries in the caption: row numbers of `filter.balance.queries`.",
    "sampling_probability": "Probability with which training samples the pair in an epoch; null is 1.",
    "key": "Name of the sample in its shard, equal to `uid`.",
    "shard": "File name of the shard.",
    "status": "Result of the download: success, failed_to_download or failed_to_resize.",
    "error_message": "Failure of the download: its class, and the detail.",
    "width": "Width of the image in the shard, in pixels.",
    "height": "Height of the image in the shard, in pixels.",
    "original_width": "Width of the image as fetched, in pixels.",
    "original_height": "Height of the image as fetched, in pixels.",
    "sha256": "Digest of the bytes as fetched, 64 hex digits.",
    "phash": "Perceptual hash of the image, 16 hex digits.",
    "cluster": "Smallest `uid` of the pairs that are duplicates of each other; null for no duplicate.",
    "evaluation_overlap": "Evaluation sets that have the image, joined by commas.",
    "captions": "Further captions of the image, each with `uid`, `caption`, `caption_source`, `language` and its origin; "
    "only with `filter.captions_per_image` or `[curate.recaption]`.",
    "drop_reason": "Why the row was dropped.",
    "drop_stage": "Stage that dropped the row.",
    "fetched_at": "Time of the request, ISO 8601 in UTC; null if none was sent.",
    "http_status": "Status of the response.",
    "final_url": "URL after redirects.",
    "content_type": "Content-Type of the response.",
    "etag": "ETag of the response.",
    "last_modified": "Last-Modified of the response.",
    "server": "Network and TLS certificate of the host that answered, JSON; null without TLS.",
    "opt_out": "Opt-out signals that were found: signal, detail, where, when.",
    "permissions": "Permissions to train that were found, likewise; a licence has its URL and sha256.",
    "bytes": "Size of the body, in bytes.",
    "archive": "Name of the archive or file of the source that the image was taken from; null if a server answered.",
    "archive_offset": "Position of the image in it, as `source_offset`.",
    "preview": "A small JPEG, for a few images only.",
}
"""Meaning of each column, of `pairs` and of the evidence of a download; docs/reference/columns.md shows it."""

PERSONAL = frozenset(
    {
        *("url", "caption", "page_url", "page_opt_out", "captions", "extra", "error_message", "sha256", "phash"),
        *("final_url", "etag", "last_modified", "opt_out", "permissions", "preview", "thumbnail"),
    }
)
"""Columns with text or images of pairs, or what identifies them, which a takedown erases."""
FILTERED = pa.schema([*PAIRS, *LANGUAGE, *BALANCE])
DOWNLOADED = pa.schema([*FILTERED, *FETCH])
CURATED = pa.schema([*DOWNLOADED, *INSPECTION])
"""Columns of the kept parts of `curate` without those of its steps. `pack` copies all columns of its input; there, `shard`
is the training shard."""


def find_added_columns() -> dict[str, Column]:
    """Return the columns that the installed steps of curate may add, by name."""
    return {column.name: column for step in plugins.load("steps").values() for column in step.columns}


def find_meanings() -> dict[str, str]:
    """Return the meaning of each column, also of those that the steps of curate add."""
    return MEANINGS | {column.name: column.meaning for column in find_added_columns().values()}


def dropped_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema of the `dropped-*` parts of a stage whose kept parts have `schema`."""
    return pa.schema([*schema, *DROP])


def uid(url: str, caption: str) -> str:
    """Return the identity of a pair: 32 hex digits of xxh3-128 over url, NUL, caption (UTF-8)."""
    return xxhash.xxh3_128_hexdigest(f"{url}\0{caption}".encode("utf-8", "surrogatepass"))


def uid_sum(uids: Iterable[str]) -> str:
    """Fingerprint of a multiset of uids: their sum modulo 2^128, as 32 hex digits. Independent of order.

    Two multisets with the same fingerprint are the same for all practical purposes, so `kept +
    dropped == input` can be asserted by uid over any number of rows in constant memory.
    """
    return f"{sum(int(u, 16) for u in uids) % (1 << 128):032x}"


def conform(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """Return the table with exactly the columns of `schema`, in its order and types; missing nullable columns are null.

    A table with the column `captions` keeps it, as its last one.

    Raises: SchemaError that names `where` when uid is missing or null or a column cannot be cast.
    """
    if CAPTIONS.name in table.column_names and CAPTIONS.name not in schema.names:
        schema = schema.append(CAPTIONS)
    columns = []
    for field in schema:
        if field.name in table.column_names:
            column = table[field.name]
            try:
                columns.append(column if column.type == field.type else column.cast(field.type))
            except pa.ArrowInvalid as error:
                raise SchemaError(
                    f"{where}: column {field.name!r} of type {column.type} does not cast to {field.type}: {error}"
                ) from error
        else:
            columns.append(pa.nulls(table.num_rows, field.type))
    result = pa.table(columns, schema=schema)
    if result["uid"].null_count:
        raise SchemaError(f"{where}: column 'uid' is missing or has nulls")
    return result
