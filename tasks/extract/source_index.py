"""The index by source file: it names the parts of each extracted file, so that a later snapshot copies them.

An entry is `extract/by-source/<hash>.json`. The hash covers the stage's version, the config fields that decide the rows of
a file, and the file's digest and name. So a later crawl costs only its new files.
"""

from pydantic import ValidationError

from dataops.config import FrozenModel
from dataops.digest import canonical_json, text_sha256
from dataops.errors import StorageError
from dataops.snapshot import Draft, Part, Record
from dataops.store import Store

NAME = "extract"
VERSION = 10
ACCEPTED = frozenset({9})
"""Version 9 dropped each page that names an RSL licence; 10 lets the licence decide."""
SOURCE_INDEX = f"{NAME}/by-source"


class IndexEntry(FrozenModel):
    """The snapshot that holds the parts of a source file, and the record of the task that wrote them."""

    key: str
    record: Record


def entry_name(row_config: dict[str, object], digest: str, file: str) -> str:
    """Return the name in the store of a file's entry."""
    return f"{SOURCE_INDEX}/{text_sha256(canonical_json([NAME, VERSION, row_config, digest, file]))[:32]}.json"


def write_entry(draft: Draft, entry: str, record: Record) -> None:
    """Write the entry of a file whose parts are in the draft."""
    draft.store.put(entry, IndexEntry(key=draft.key, record=record).model_dump_json().encode())


def read_indexed_record(store: Store, entry: str) -> Record | None:
    """Return the record that an entry holds; None if there is no entry, or it cannot be read."""
    if store.size(entry) is None:
        return None
    try:
        return IndexEntry.model_validate_json(store.read(entry)).record
    except (ValidationError, StorageError):
        return None


def copy_indexed_parts(draft: Draft, entry: str, index: int) -> Record | None:
    """Copy the parts that an entry names into the draft, and return its record; None if they are not all there.

    Args:
        index: index of the file in the draft, by which its parts are named.
    """
    store = draft.store
    if store.size(entry) is None:
        return None
    try:
        found = IndexEntry.model_validate_json(store.read(entry))
    except ValidationError:  # a power failure can leave an empty file
        return None
    # An entry of this very snapshot is from an earlier, unfinished attempt: its parts may be incomplete.
    if found.key == draft.key:
        return None
    if any(store.size(f"{NAME}/{found.key}/{part.name}") != part.bytes for part in found.record.parts):
        return None
    parts: list[Part] = []
    for part in found.record.parts:
        name = f"{part.name.partition('-')[0]}-{index:05d}.parquet"
        store.copy(f"{NAME}/{found.key}/{part.name}", draft.path(name))
        parts.append(part.model_copy(update={"name": name}))
    return found.record.model_copy(update={"parts": parts})
