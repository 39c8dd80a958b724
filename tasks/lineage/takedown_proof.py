"""Prove that a dataset holds nothing of what was taken down, by reading its rows, samples and checksums again."""

import json
from collections.abc import Sequence

from dataops.digest import file_sha256
from dataops.errors import ContractError
from dataops.formatting import format_quantity
from dataops.shards.tar import read_samples
from dataops.snapshot import Manifest, read_table
from dataops.store import Store
from dataops.trace.targets import Target, matching_rows
from tasks.lineage.graph import KEPT


def prove_removal(
    store: Store, dataset: Manifest, targets: Sequence[Target], uids: Sequence[str], before: dict[str, str]
) -> list[str]:
    """Check that no row of a new version matches a target, and no shard holds a sample of a removed pair.

    Args:
        uids: removed pairs.
        before: sha256 of each part of the previous version, by name.

    Returns: one sentence for each check, for the report.
    Raises: ContractError that names the row, shard or sample that is left.
    """
    removed, rows, samples, unchanged = set(uids), 0, 0, 0
    for part in dataset.named(KEPT, ".parquet"):
        table = read_table(store, dataset.path(part.name))
        if matching_rows(table, targets).any() or removed & {*table["uid"].to_pylist()}:
            raise ContractError(f"{dataset.path(part.name)} still has a row of what was taken down")
        rows += table.num_rows
    for part in dataset.parts:
        if file_sha256(store.local(dataset.path(part.name))) != part.sha256:
            raise ContractError(f"{dataset.path(part.name)} differs from the sha256 in its manifest")
        if part.name.endswith(".tar") and before.get(part.name) == part.sha256:
            unchanged += 1
        elif part.name.endswith(".tar"):
            samples += _count_samples(store, dataset.path(part.name), removed)
    return [
        f"{format_quantity(rows, 'row')} of the new version {_were(rows)} read again: no row matches a target",
        f"{format_quantity(samples, 'sample')} of its rewritten shards {_were(samples)} read again: "
        "none belongs to a removed pair",
        f"the sha256 of all {len(dataset.parts):,} parts was computed again; unchanged shards: {unchanged:,}",
    ]


def _were(number: int) -> str:
    return "was" if number == 1 else "were"


def _count_samples(store: Store, tar: str, removed: set[str]) -> int:
    """Return the number of samples of a shard. Raises: ContractError if one belongs to a removed pair, by key or uid."""
    count = 0
    with store.open(tar) as file:
        for key, members in read_samples(file, tar):
            row = json.loads(members.get("json", b"{}"))
            if key in removed or row.get("uid") in removed:
                raise ContractError(f"{tar} still has the sample {key}")
            count += 1
    return count
