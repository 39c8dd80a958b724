"""Cache the scores that any run of the store computed: each scorer scores an image once.

Scores lie beside the snapshots, as Parquet objects that are written once and never changed::

    scores/<scorer's digest>/<digest of the object>.parquet      columns dataops.images.score_tables.SCORES

A score depends only on its scorer and on the image (and caption), so it does not matter which run wrote it, nor whether two
runs wrote the same one. If an object is deleted, its scores are computed again.
"""

import hashlib
import logging
from collections.abc import Sequence

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from dataops.errors import CorruptPart
from dataops.images.score_tables import FACES, FEATURES, SCORES
from dataops.snapshot import read_table
from dataops.store import Store

logger = logging.getLogger(__name__)

TYPES = {"id": pl.Binary, "score": pl.Float32, "face_bboxes": pl.List(pl.List(pl.Float32)), "feature": pl.Binary}


def put_scores(store: Store, scorer: str, scores: pa.Table) -> None:
    """Write scores (SCORES, FACES or FEATURES) of the scorer with this digest."""
    sink = pa.BufferOutputStream()
    schema = next(schema for schema in (SCORES, FACES, FEATURES) if schema.names == scores.column_names)
    pq.write_table(scores.cast(schema), sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    store.put(f"scores/{scorer}/{hashlib.sha256(data).hexdigest()[:32]}.parquet", data)


def read_scores(store: Store, names: Sequence[str], columns: Sequence[str]) -> pl.DataFrame:
    """Return the `id` and the columns of some objects (TYPES)."""
    schema = {name: TYPES[name] for name in ("id", *columns)}
    tables: list[pl.DataFrame] = [pl.DataFrame(schema=schema)]
    for name in names:
        try:
            table = read_table(store, name, list(schema))
        except CorruptPart as error:  # a power failure may leave an object empty
            logger.warning("%s; its scores are computed again", error)
            continue
        tables.append(pl.DataFrame({field: pl.Series(field, table[field], kind) for field, kind in schema.items()}))
    return pl.concat(tables)
