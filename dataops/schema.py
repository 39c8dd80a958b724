"""Define the columns that stages pass on, and the identity of a pair.

Each stage keeps the columns that it got and adds its own. Rows that leave go to `dropped-*` parts, with the columns that
were known when they left and `drop_reason` and `drop_stage`.
"""

from collections.abc import Iterable

import pyarrow as pa
import xxhash

from dataops.errors import SchemaError

PAIRS = pa.schema(
    [
        ("uid", pa.string()),  # 32 hex of xxh3-128 over url + NUL + caption
        ("url", pa.string()),  # absolute, http or https
        ("caption", pa.string()),
        ("caption_source", pa.string()),  # alt, title, aria_label, figcaption, og, filename, pair_list
        ("page_url", pa.string()),
        ("source", pa.string()),  # file of origin, as the config names it
        ("source_offset", pa.int64()),  # of the record in that file, in bytes
        ("extracted_with", pa.string()),
        ("page_language", pa.string()),  # what <html lang> declares: a BCP 47 tag in lower case, "en-us"
        ("page_opt_out", pa.string()),  # such as "noai,noimageai": see dataops.web.declarations
        ("license", pa.string()),  # address of the licence that is declared nearest to the image
        ("declared_width", pa.int32()),  # in pixels, as the page says
        ("declared_height", pa.int32()),
        ("extra", pa.string()),  # further columns of a pair list, as a JSON object
    ]
)
LANGUAGE = [pa.field("language", pa.string()), pa.field("language_score", pa.float32())]
BALANCE = [
    pa.field("query_ids", pa.list_(pa.uint32())),  # the queries in the caption: rows of filter.balance.queries
    pa.field("sampling_probability", pa.float32()),  # with which a loader should see the pair in an epoch; null is 1
]
FETCH = [
    pa.field("key", pa.string()),
    pa.field("shard", pa.string()),
    pa.field("status", pa.string()),  # success, failed_to_download, failed_to_resize
    pa.field("error_message", pa.string()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("original_width", pa.int32()),
    pa.field("original_height", pa.int32()),
    pa.field("sha256", pa.string()),  # of the bytes as fetched
]
INSPECTION = [
    pa.field("phash", pa.string()),  # 16 hex
    pa.field("cluster", pa.string()),  # smallest uid of the pairs that are duplicates of each other; null: no duplicate
    pa.field("evaluation_overlap", pa.string()),  # evaluation sets that have the image, joined by commas
]
SCORES = [
    pa.field("clip_score", pa.float32()),  # cosine of image and caption; docs/scores.md
    pa.field("aesthetic", pa.float32()),
    pa.field("nsfw", pa.float32()),  # 0 to 1
    pa.field("faces", pa.float32()),  # how many
]
SCORE_NAMES = [field.name for field in SCORES]
FACE_BBOXES = pa.list_(pa.list_(pa.float32()))  # x0, y0, x1, y1 of each, as shares of width and height
FACES = [pa.field("face_bboxes", FACE_BBOXES)]  # DataComp's name; null where no faces were looked for
DROP = [pa.field("drop_reason", pa.string()), pa.field("drop_stage", pa.string())]

FILTERED = pa.schema([*PAIRS, *LANGUAGE, *BALANCE])
DOWNLOADED = pa.schema([*FILTERED, *FETCH])
CURATED = pa.schema([*DOWNLOADED, *INSPECTION, *SCORES, *FACES])
PACKED = CURATED  # `shard` now names the training shard


def dropped_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema of the `dropped-*` parts of a stage whose kept parts have `schema`."""
    return pa.schema([*schema, *DROP])


def uid(url: str, caption: str) -> str:
    """Return the identity of a pair: 32 hex digits of xxh3-128 over url, NUL, caption (UTF-8)."""
    return xxhash.xxh3_128_hexdigest(f"{url}\0{caption}".encode("utf-8", "surrogatepass"))


def uid_sum(uids: Iterable[str]) -> str:
    """Fingerprint of a multiset of uids: their sum modulo 2^128, as 32 hex digits. Independent of order.

    Two multisets with the same fingerprint are the same for all practical purposes, so `kept + dropped == input` can be
    asserted by uid over any number of rows in constant memory.
    """
    return f"{sum(int(u, 16) for u in uids) % (1 << 128):032x}"


def conform(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """Return the table with exactly the columns of `schema`, in its order and types; missing nullable columns are null.

    Raises: SchemaError that names `where` when uid is missing or null or a column cannot be cast.
    """
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
