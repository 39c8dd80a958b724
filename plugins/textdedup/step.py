"""Register the step of the filter that drops near-duplicate captions, with its table `[filter.near_captions]`."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from dataops.schema import DropReason
from plugins.textdedup.config import KIND, REASON, TABLE, NearCaptionsConfig
from tasks.filter.added_steps import AddedStep, Map, Units

_ROW_BYTES, _REASON_BYTES, _BAND_BYTES, _PAIR_BYTES = 54, 5, 12, 40
"""Expected bytes of a row of keys, of a dropped row, of a band of a row, and of a pair."""
_STORED_BAND_BYTES = 40
"""Maximum bytes of what the scratch tables hold of one band of one row."""
_COPIES = 4
"""Maximum number of copies of a partition's pairs in memory."""


def count_bands(config: NearCaptionsConfig) -> int:
    """Return the number of bands of a caption's signature."""
    from plugins.textdedup.minhash import choose_scheme

    return choose_scheme(config.threshold).bands


def exchanges(config: NearCaptionsConfig) -> Mapping[str, Units]:
    """Return the exchanges of the maps."""
    bands = _BAND_BYTES * count_bands(config)
    return {
        "normal-forms": ("batches", "partitions", _ROW_BYTES),
        "drop-reasons-same": ("partitions", "batches", _REASON_BYTES),
        "near-bands": ("batches", "partitions", bands),
        "near-candidates": ("partitions", "batches", bands),
        "near-captions": ("batches", "partitions", bands),
        "near-pairs": ("partitions", "rank_partitions", _PAIR_BYTES),
        "near-dropped": ("rank_partitions", "rank_partitions", 8),
        "drop-reasons-near": ("rank_partitions", "batches", _REASON_BYTES),
        "near-known-bands": (KIND, "partitions", bands),
        "near-known-candidates": ("partitions", KIND, bands),
        "near-known-captions": (KIND, "partitions", bands),
    }


def list_maps(job: Any, batches: Sequence[tuple[Any, ...]]) -> list[Map]:
    """Return the maps of a FilterJob in their order."""
    from plugins.textdedup import maps

    partitions, once = [()] * job.partitions, [()]
    known = job.known[KIND].batches if KIND in job.known else ()
    return [
        Map(batches, maps.put_normal_forms, ["normal-forms"]),
        Map(partitions, maps.drop_same_captions, ["drop-reasons-same"]),
        Map(batches, maps.put_signatures, ["near-bands"]),
        *([Map(known, maps.put_known_bands, ["near-known-bands"])] if known else []),
        Map(partitions, maps.find_candidates, ["near-candidates", *(["near-known-candidates"] if known else [])]),
        Map(batches, maps.put_candidates, ["near-captions"]),
        *([Map(known, maps.put_known_candidates, ["near-known-captions"])] if known else []),
        Map(once, maps.choose_rank_bounds),
        Map(partitions, maps.compare_captions, ["near-pairs"]),
        Map([()] * job.units["rank_partitions"], maps.drop_near_captions, ["drop-reasons-near"], is_ordered=True),
    ]


def keep(config: NearCaptionsConfig, pairs: pl.DataFrame) -> Mapping[str, pa.Table]:
    """Return the captions of pairs that a version of a dataset adds, with their bands."""
    from plugins.textdedup.maps import known_captions

    return {KIND: known_captions(config, pairs)}


NEAR_CAPTIONS = AddedStep(
    reason=REASON,
    description=DropReason(
        "A kept row has nearly the same caption.", "`filter.near_captions.threshold`, or leave the table out"
    ),
    table=TABLE,
    config=NearCaptionsConfig,
    maps=list_maps,
    exchanges=exchanges,
    reason_tables=("drop-reasons-same", "drop-reasons-near"),
    row_bytes=lambda config: count_bands(config) * _STORED_BAND_BYTES,
    # One partition at a time fits in the memory of all workers.
    kinds=(KIND,),
    keep=keep,
    units=lambda rows, memory: {"rank_partitions": max(-(-rows * _PAIR_BYTES * _COPIES // memory), 1)},
)
