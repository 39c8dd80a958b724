"""A store as one takedown sees it: what does not change is requested once.

The objects of a complete snapshot are immutable, so their listing and those of them that are small are kept. A takedown
reads the same manifests, indexes and rows several times: to find the pairs, to make the next version, and as its proof.
"""

from collections.abc import Iterator, Sequence
from typing import Any, cast

from dataops.snapshot import MANIFEST
from dataops.stages import STAGES
from dataops.storage.base import SMALL_BYTES, Entry, Store
from dataops.trace.requests import FOLDER

KEPT_BYTES = 1 << 26
"""Bytes of objects that are kept."""


def remember(store: Store) -> Store:
    """Return the store as it is now: what others add meanwhile is seen in snapshots that are not complete only."""
    return cast("Store", _SeenStore(store))


class _SeenStore:
    def __init__(self, store: Store):
        self._store, self._entries = store, {entry.name: entry for entry in store.entries("")}
        self._complete = {_folder(name) for name in self._entries if name.endswith(f"/{MANIFEST}")}
        self._bytes: dict[str, bytes] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def _is_kept(self, name: str) -> bool:
        """Return whether an object is of a complete snapshot, or of the takedowns: only this call writes these."""
        is_part = _folder(name) in self._complete and "/_work/" not in name
        return name in self._entries and (is_part or name.startswith(f"{FOLDER}/"))

    def entries(self, prefix: str) -> list[Entry]:
        if prefix in self._complete or (prefix not in STAGES and "/" not in prefix):
            start = f"{prefix}/" if prefix else ""
            return [entry for name, entry in self._entries.items() if name.startswith(start)]
        return self._store.entries(prefix)

    def names(self, prefix: str) -> list[str]:
        return [entry.name for entry in self.entries(prefix)]

    def size(self, name: str) -> int | None:
        return self._entries[name].bytes if self._is_kept(name) else self._store.size(name)

    def find(self, name: str) -> bytes | None:
        if name in self._bytes or (name.startswith(f"{FOLDER}/") and name not in self._entries):
            return self._bytes.get(name)
        data = self._store.find(name)
        if data is not None and self._is_kept(name):
            self._keep(name, data)
        return data

    def read(self, name: str) -> bytes:
        return self._store.read(name) if (data := self.find(name)) is None else data

    def read_each(self, ranges: Sequence[tuple[str, int, int]]) -> Iterator[bytes]:
        if all(self._is_small(name) for name, _, _ in ranges):
            return (self.read(name)[start : start + size] for name, start, size in ranges)
        return self._store.read_each(ranges)

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        if self._is_small(name):
            return self.read_each([(name, start, size) for start, size in ranges])
        return self._store.read_ranges(name, ranges)

    def _is_small(self, name: str) -> bool:
        return self._is_kept(name) and self._entries[name].bytes <= SMALL_BYTES

    def _keep(self, name: str, data: bytes) -> None:
        if len(data) <= SMALL_BYTES and sum(map(len, self._bytes.values())) < KEPT_BYTES:
            self._bytes[name] = data

    def create(self, name: str, data: bytes) -> bool:
        return self._wrote(name, data, is_new=self._store.create(name, data))

    def put(self, name: str, data: Any) -> None:
        self._store.put(name, data)
        self._wrote(name, data, is_new=True)

    def _wrote(self, name: str, data: Any, *, is_new: bool) -> bool:
        if is_new and name.startswith(f"{FOLDER}/"):
            self._bytes[name] = bytes(data)
        return is_new


def _folder(name: str) -> str:
    return "/".join(name.split("/")[:2])
