"""Which takedown requests a dataset applies, so that only those that remove a pair of it change its key.

    takedowns/datasets/<digest>.json    of a dataset without requests: those that its versions apply, and those that match
                                        no row of it

A dataset is the versions of `pack` that differ only in their requests; the digest is the key that it has without any. The
newest version that is complete counts, and each request that is neither applied nor known to match nothing is searched in
its index. Without a complete version, all requests of the store are applied. The records only save searches: without them,
and after any kill, no pair that a request names is in a version that a run uses.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from pydantic import BaseModel, ConfigDict, ValidationError

from dataops.errors import CorruptPart
from dataops.snapshot import Draft, Input, Manifest, load_manifest, snapshot_key
from dataops.store import Store
from dataops.trace.requests import FOLDER, STAGE, list_requests, load_targets
from tasks.search.rows import Rows, Search

VERSIONS = 8
"""Versions of a dataset that are remembered."""

KeyOf = Callable[[list[Input]], str]


class Applied(BaseModel):
    """takedowns/datasets/<digest>.json; requests are named by their digests."""

    model_config = ConfigDict(extra="ignore")

    versions: list[list[str]] = []
    """Requests that versions apply, the oldest version first."""
    unmatched: list[str] = []
    """Requests that match no row of the newest version."""


def list_applied(store: Store, key_of: KeyOf, requests: Sequence[Input] | None = None) -> list[Input]:
    """Return the requests that the next snapshot of a dataset applies, sorted, as inputs of its key.

    Args:
        requests: those of the store, if they are known.
    """
    requests = list_requests(store) if requests is None else [*requests]
    if not requests:
        return []
    known = load_applied(store, key_of([]))
    for version in [*reversed(known.versions), []]:
        applied = [request for request in requests if request.key in version]
        if len(applied) != len(version) or not Draft(store, "pack", key := key_of(applied)).is_complete():
            continue
        with suppress(CorruptPart):  # its rows are not known: all requests are applied
            if not (rest := list_open(known, applied, requests)):
                return applied
            if (manifest := load_manifest(store, "pack", key)) is not None:
                matching = find_matching(store, manifest, rest)
                return [request for request in requests if request in applied or request in matching]
    return requests


def list_open(known: Applied, applied: Iterable[Input], requests: Iterable[Input]) -> list[Input]:
    """Return the requests that a version does not apply, and of which it is not known that they match nothing."""
    done = {*known.unmatched, *(request.key for request in applied)}
    return [request for request in requests if request.key not in done]


def find_matching(store: Store, dataset: Manifest, requests: Sequence[Input]) -> list[Input]:
    """Return the requests that match a row of a dataset. Raises: CorruptPart if a request or the dataset is damaged."""

    def has_match(some: Sequence[Input]) -> bool:
        return bool(Search(store).find(Rows(dataset, "part-"), load_targets(store, some)))

    if not has_match(requests):
        return []
    return [one for one in requests if has_match([one])] if len(requests) > 1 else [*requests]


def find_unapplied(store: Store, dataset: Manifest) -> list[Input]:
    """Return the requests of the store that a dataset does not apply, although they match a row of it."""
    applied = [one for one in dataset.inputs if one.stage == STAGE]
    requests = [one for one in list_requests(store) if one not in applied]
    rest = list_open(load_applied(store, name_dataset(dataset)), applied, requests) if requests else []
    return find_matching(store, dataset, rest) if rest else []


def name_dataset(version: Manifest) -> str:
    """Return the key that a version has without requests."""
    inputs = [one for one in version.inputs if one.stage != STAGE]
    return snapshot_key(version.stage, version.stage_version, version.config, version.seed, inputs)


def load_applied(store: Store, dataset: str) -> Applied:
    """Return what is known of a dataset; nothing, if the record is missing or damaged."""
    try:
        return Applied.model_validate_json(store.find(_name(dataset)) or b"{}")
    except ValidationError:
        return Applied()


def save_applied(
    store: Store, dataset: str, known: Applied, applied: Iterable[Input], unmatched: Iterable[Input] = ()
) -> None:
    """Add what a version applies, before it is complete, and requests that match no row of it, to what is known."""
    version = sorted(one.key for one in applied)
    versions = sorted([one for one in known.versions if one != version] + [version], key=len)[-VERSIONS:]
    after = Applied(versions=versions, unmatched=sorted({*known.unmatched, *(one.key for one in unmatched)}))
    if after != known:
        store.put(_name(dataset), after.model_dump_json().encode())


def _name(dataset: str) -> str:
    return f"{FOLDER}/datasets/{dataset}.json"
