"""Read lists of digests, and hand them to the tasks of a download without writing one of them in clear.

The driver reads each list once. The scratch of the snapshot gets the entries under a key that only the driver and its
tasks have, in memory: exact digests as keyed hashes, and PDQ with some bits inverted, which changes no distance.
"""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from dataops.errors import ConfigError, SourceError
from dataops.images.digests import DistanceSet
from dataops.lists.value_set import ValueSet, digest_values, parse_values, sort_values
from dataops.snapshot import Draft, Input
from dataops.store import open_store
from plugins.moderation.lists_config import HashListsConfig, Kind
from tasks.lists.locations import HASH_LIST, is_remote, list_input, read_values, select_lists

DIGITS: dict[Kind, int] = {"md5": 32, "sha1": 40, "sha256": 64, "pdq": 64}
_PATTERNS = {kind: re.compile(rf"[0-9a-fA-F]{{{digits}}}") for kind, digits in DIGITS.items()}
_BATCH = 1 << 16
_VALUE_BYTES = 16
"""Bytes of a digest that are compared: the first 128 bits identify it."""


@dataclass(frozen=True)
class HashList:
    """One list."""

    kind: Kind
    name: str
    words: NDArray[np.uint64]
    """(n, 2) for exact digests, (n, 4) for PDQ; sorted."""
    digest: str


_read: dict[tuple[Kind, str], HashList] = {}
"""What this process last read, by kind and location."""


def read_inputs(config: HashListsConfig) -> list[Input]:
    """Read the lists, each anew, and return them as inputs of the snapshot.

    Raises: ConfigError or SourceError with the key, the location, the line and what to do.
    """
    lists = [_read_list(*where) for where in config.locations()]
    return [list_input(HASH_LIST, _key(one.kind, one.name), one.digest) for one in lists]


def find_problems(config: HashListsConfig) -> list[str]:
    """Return what is wrong with the lists on this machine; addresses are read when the run plans its stage."""
    problems = config.problems()
    for kind, name, location in config.locations():
        try:
            if not is_remote(location):
                _read_list(kind, name, location)
        except (ConfigError, SourceError) as error:
            problems.append(str(error).removeprefix("download."))
    return problems


def _key(kind: Kind, name: str) -> str:
    return f"{name} ({kind})"


def _read_list(kind: Kind, name: str, location: str) -> HashList:
    pattern, digits = _PATTERNS[kind], DIGITS[kind]

    def parse(text: str) -> bytes:
        if not pattern.fullmatch(text):  # the message must not repeat a digest
            raise ValueError(f"it is no {kind.upper()}; write {digits} hex digits, or begin a comment with #")
        return bytes.fromhex(text)

    try:
        values = map(bytes, read_values(location, (kind, "hash", "digest", "value"), parse))  # pyright: ignore[reportArgumentType]
        size = 32 if kind == "pdq" else _VALUE_BYTES
        batches = [
            parse_values(b"".join(one[:size] for one in batch))
            for batch in iter(lambda: list(islice(values, _BATCH)), [])
        ]
    except (ConfigError, SourceError) as error:
        raise type(error)(f"download.hash_lists.{kind}.{name}: {error}", retryable=error.retryable) from error
    words = sort_values(np.concatenate(batches).reshape(-1, size // 8))
    _read[kind, location] = found = HashList(kind, name, words, digest_values(words))
    return found


@dataclass(frozen=True)
class StoredHashLists:
    """The lists in the scratch of a snapshot, for its tasks. It is picklable, and is never written to a file."""

    lists: tuple[tuple[Kind, str], ...]
    """Kind and name of each."""
    key: bytes
    """Of the keyed hashes; it also selects the bits of PDQ that are inverted."""
    pdq_max_distance: int
    pdq_min_quality: int

    def load(self, draft: Draft) -> list[tuple[Kind, str, ValueSet | DistanceSet]]:
        """Return the entries of each list."""
        return [
            (kind, name, _load(draft.store.uri, draft.scratch(_object_name(number)), kind, self.key))
            for number, (kind, name) in enumerate(self.lists)
        ]

    def hide(self, digest: bytes) -> bytes:
        """Return what the scratch has for an exact digest."""
        return hide_digest(self.key, digest)

    def hide_pdq(self, words: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Return what the scratch has for a PDQ."""
        return words ^ _mask(self.key)


def hide_digest(key: bytes, digest: bytes) -> bytes:
    """Return the keyed hash of an exact digest."""
    return blake2b(digest[:_VALUE_BYTES], key=key, digest_size=_VALUE_BYTES).digest()


def _mask(key: bytes) -> NDArray[np.uint64]:
    return np.frombuffer(blake2b(b"pdq", key=key, digest_size=32).digest(), ">u8").astype(np.uint64)


def put_lists(draft: Draft, config: HashListsConfig, inputs: Sequence[Input]) -> StoredHashLists:
    """Write the hidden entries to the scratch of the snapshot, under a new key.

    Args:
        inputs: those of the snapshot's key.

    Raises: SourceError if a list has changed since the snapshot was planned.
    """
    key, digests = secrets.token_bytes(32), select_lists(inputs, HASH_LIST)
    names: list[tuple[Kind, str]] = []
    for number, (kind, name, location) in enumerate(config.locations()):
        expected = digests.get(_key(kind, name))
        found = _read.get((kind, location))
        if found is None or found.digest != expected:
            found = _read_list(kind, name, location)
        if found.digest != expected:
            raise SourceError(
                f"download.hash_lists.{kind}.{name}: the list has changed since this run read it; rerun",
                retryable=False,
            )
        if kind == "pdq":
            data = (found.words ^ _mask(key)).astype(">u8").tobytes()
        else:
            plain = found.words.astype(">u8").tobytes()
            digests_in_order = (plain[at : at + _VALUE_BYTES] for at in range(0, len(plain), _VALUE_BYTES))
            hidden = parse_values(b"".join(hide_digest(key, digest) for digest in digests_in_order))
            data = sort_values(hidden).astype(">u8").tobytes()
        draft.store.put(draft.scratch(_object_name(number)), data)
        names.append((kind, name))
    return StoredHashLists(tuple(names), key, config.pdq_max_distance, config.pdq_min_quality)


def _object_name(number: int) -> str:
    return f"hash-list-{number}"


@lru_cache(maxsize=64)
def _load(uri: str, name: str, kind: Kind, key: bytes) -> ValueSet | DistanceSet:
    """Return the entries in an object; a process reads each of them once. The key is a part of the cache's key."""
    values = parse_values(open_store(uri).read(name))
    return DistanceSet(values.reshape(-1, 4)) if kind == "pdq" else ValueSet(values)
