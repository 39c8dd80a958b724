"""Prove that a dataset holds nothing of what was taken down, by reading its rows, samples and checksums again."""

import json
from collections.abc import Sequence

from dataops.digest import file_sha256
from dataops.errors import ContractError
from dataops.shards.tar import read_samples
from dataops.snapshot import Manifest, read_table
from dataops.store import Store
from dataops.trace.targets import Target, matching_rows
from tasks.lineage.graph import KEPT


def prove_removal(
    store: Store, dataset: Manifest, targets: Sequence[Target], uids: Sequence[str], before: dict[str, str]
) -> list[str]:
    """Read a new version again: no row is matching_rows by the targets, no shard holds a sample of the pairs taken out.

    Args:
        before: sha256 of the parts of the version that it follows.

    Raises: ContractError that names what was found.
    """
    gone, rows, samples, same = set(uids), 0, 0, 0
    for part in dataset.named(KEPT, ".parquet"):
        table = read_table(store, dataset.path(part.name))
        if matching_rows(table, targets).any() or gone & {*table["uid"].to_pylist()}:
            raise ContractError(f"{dataset.path(part.name)} still has a row of what was taken down")
        rows += table.num_rows
    for part in dataset.parts:
        if file_sha256(store.local(dataset.path(part.name))) != part.sha256:
            raise ContractError(f"{dataset.path(part.name)} is not what its manifest says")
        if part.name.endswith(".tar") and before.get(part.name) == part.sha256:
            same += 1
        elif part.name.endswith(".tar"):
            samples += _clean_samples(store, dataset.path(part.name), gone)
    return [
        f"{rows:,} rows of the new version were read again: no target means any of them",
        f"{samples:,} samples of its rewritten shards were read again: none is of a pair that was taken out",
        f"the sha256 of all its {len(dataset.parts):,} parts were computed again; {same:,} shards are those of before",
    ]


def _clean_samples(store: Store, tar: str, gone: set[str]) -> int:
    """The number of samples of a shard. Raises: ContractError when one is of a pair that is gone, by key or by its row."""
    count = 0
    with store.open(tar) as file:
        for key, members in read_samples(file, tar):
            row = json.loads(members.get("json", b"{}"))
            if key in gone or row.get("uid") in gone:
                raise ContractError(f"{tar} still has the sample {key}")
            count += 1
    return count
