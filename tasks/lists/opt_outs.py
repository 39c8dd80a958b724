"""Read opt-out lists (URLs, domains, sha256 and perceptual digests of images), and match rows against them.

In memory and in the scratch of a snapshot, an entry is a 128-bit hash of its kind and value: 16
bytes for each entry. A perceptual digest is kept as it is; tasks/lists/opt_outs.py compares it.
"""

import io
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from dataops import plugins
from dataops.digest import text_sha256
from dataops.errors import ConfigError, SourceError, explain_unreadable
from dataops.formatting import format_quantity
from dataops.images.decode import ImageRefused
from dataops.images.digests import KIND, PHASH, Digest, DistanceSet, parse_words
from dataops.lists.value_set import Halves, ValueSet, digest_values, parse_values, sort_values
from dataops.regular_files import read_bytes
from dataops.schema import CAPTIONS
from dataops.snapshot import Draft, Input
from dataops.store import open_store
from dataops.trace.targets import image_targets, list_captions, parse_target
from dataops.web.urls import BadUrl, canonicalise_url, load_suffixes
from tasks.lists.locations import OPT_OUT_LIST, is_remote, list_input, read_values, select_lists

logger = logging.getLogger(__name__)

Entries = NDArray[np.uint64]
"""(n, words + 1): the words of each digest, and the maximum distance of a copy."""
MARK = "list:"
"""Prefix of a list's name in the column `page_opt_out` of a dropped row."""


def parse_copy(text: str) -> str | None:
    """Return the canonical form of an entry that is a perceptual digest, such as `phash:HEX~4`; None for other entries.

    Raises: ValueError with the allowed form; ConfigError with the command that installs the digest.
    """
    kind, colon, value = text.lower().partition(":")
    if not colon or kind not in plugins.names(KIND):
        return None
    digest: Digest = plugins.find(KIND, kind)
    digits = digest.digits
    hexadecimal, tilde, bits = value.strip().partition("~")
    if len(hexadecimal) != digits or not set(hexadecimal) <= set("0123456789abcdef"):
        raise ValueError(f"{text[:80]!r} is no {kind}: {digits} hex digits")
    if tilde and not (bits.isascii() and bits.isdigit() and int(bits) <= digits):
        raise ValueError(f"{text[:80]!r}: the number after ~ must be 0 to {digits} bits by which a copy may differ")
    return f"{kind}:{hexadecimal}~{int(bits) if tilde else digest.bits}"


def list_images(folder: str) -> Iterable[str]:
    """Yield the entries that name the images in a folder: the digest of each file, and the perceptual hash for its copies.

    Raises: ConfigError with the file that is no image, and what to do; SourceError for one that cannot be read.
    """
    for path in sorted(Path(folder).rglob("*")):
        if path.is_dir() or path.name.startswith("."):
            continue
        try:
            yield from map(str, image_targets(read_bytes(path), PHASH.bits))
        except ImageRefused as refused:
            raise ConfigError(
                f"{path} is not read as an image ({refused}); convert it to PNG, or remove it"
            ) from refused
        except OSError as error:
            raise explain_unreadable(path, error) from error


def pack_entries(entries: Iterable[str]) -> dict[str, Entries]:
    """Return what `parse_copy` returned, by the name of the digest, sorted."""
    found: dict[str, list[list[int]]] = {}
    for entry in entries:
        kind, _, value = entry.partition(":")
        digest, _, bits = value.partition("~")
        found.setdefault(kind, []).append([*parse_words(digest), int(bits)])
    return {kind: sort_values(np.array(rows, np.uint64)) for kind, rows in sorted(found.items())}


@dataclass(frozen=True)
class CopyList:
    """The entries of one list with one perceptual digest."""

    name: str
    digest: str
    entries: Entries


def match_copies(
    rows: pl.DataFrame, lists: Sequence[CopyList], read: Callable[[], Iterable[bytes | memoryview]]
) -> dict[int, str]:
    """Return for each row whose image is a copy of a listed one the lists, the entries and the distances in bits, such as
    `list:letters phash:0f1e2d3c4b5a6978~3`. An image with too little detail is no copy.

    Args:
        rows: curated rows.
        read: yields the images of all rows.

    Raises: ImageRefused for an image that cannot be decoded.
    """
    found: dict[int, list[str]] = {}
    for kind in dict.fromkeys(one.digest for one in lists):
        digest: Digest = plugins.find(KIND, kind)
        values = (
            rows[digest.column]
            if digest.column
            else (digest.compute(bytes(image)) if len(image) else None for image in read())
        )
        sets = [(one, DistanceSet(one.entries[:, :-1])) for one in lists if one.digest == kind]
        for row, value in enumerate(values):
            if value is None:
                continue
            words = np.array(parse_words(value), np.uint64)
            for one, listed in sets:
                if near := listed.find_near(words, one.entries[:, -1].astype(np.int64)):
                    entry = "".join(f"{word:016x}" for word in one.entries[near[0], :-1].tolist())
                    found.setdefault(row, []).append(f"{MARK}{one.name} {kind}:{entry}~{near[1]}")
    return {row: ",".join(marks) for row, marks in found.items()}


_COLUMNS = (
    *("url", "urls", "image-url", "page-url", "link", "domain", "domains", "host", "hostname", "site", "website"),
    *("sha256", "hash", "digest", "value", "target", "entry"),
)
_MAX_URL_CHARS = 8192
_BATCH = 1 << 16
_PLAIN_HOST = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})+")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_SCHEME = re.compile(r"https?:", re.IGNORECASE)
_SITE = re.compile(r"https?://(?:[^/?#@]*@)?([^/?#@:\s]+\.[a-z][^/?#@:\s]*)(?::\d+)?/?", re.IGNORECASE)
"""The URL of a site without a path: its owner means the site."""
_WILDCARD = re.compile(
    r"(?:(?:https?|\*)://)?(?:domain:)?(?:\*\.)?([^/?#:*\s]+\.[^/?#:*\s]+)(?::\d+)?(?:/?\*+)?", re.IGNORECASE
)


class OptOutList(NamedTuple):
    """The entries of one list."""

    values: Halves
    digest: str
    copies: Mapping[str, Entries] = MappingProxyType({})
    """Entries that are perceptual digests, by the name of the digest."""


class RowMatches(NamedTuple):
    """Which rows match a list."""

    name: str
    mask: NDArray[np.bool_]


_read: dict[str, OptOutList] = {}
"""The content of each location when this process last read it."""


def read_inputs(key: str, locations: Mapping[str, str]) -> list[Input]:
    """Read lists, each anew, and return them as inputs of a snapshot, in the order of their names.

    Args:
        key: the key of the config, for messages.

    Raises: ConfigError or SourceError with the key, the location, the line and what to do.
    """
    named = sorted(locations.items())
    for name, location in named:
        _read[location] = _read_list(f"{key}.{name}", location)
    return [list_input(OPT_OUT_LIST, name, _read[location].digest) for name, location in named]


def recall_lists(key: str, locations: Mapping[str, str], inputs: Iterable[Input]) -> dict[str, OptOutList]:
    """Return the lists that are inputs of a snapshot, by name, without those whose location is not known.

    Raises: SourceError if a list has changed since the snapshot was planned.
    """
    found: dict[str, OptOutList] = {}
    for name, digest in select_lists(inputs, OPT_OUT_LIST).items():
        if (location := locations.get(name)) is None:
            continue
        if location not in _read or _read[location].digest != digest:
            _read[location] = _read_list(f"{key}.{name}", location)
        if _read[location].digest != digest:
            raise SourceError(f"{key}.{name}: the list has changed since this run read it; rerun", retryable=False)
        found[name] = _read[location]
    return found


def _read_list(key: str, location: str) -> OptOutList:
    copies: list[str] = []
    batches = [np.zeros((0, 2), np.uint64)]
    digests = plugins.names(KIND)
    try:
        if is_folder := not is_remote(location) and Path(location).is_dir():
            entries = list_images(location)
        else:
            columns = dict.fromkeys(_COLUMNS, "") | {name: f"{name}:" for name in digests}
            entries = map(str, read_values(location, columns, parse_entry))
        while batch := list(islice(entries, _BATCH)):
            copies += (entry for entry in batch if entry.partition(":")[0] in digests)
            batches.append(_hash_texts([entry for entry in batch if entry.partition(":")[0] not in digests]))
    except (ConfigError, SourceError) as error:
        raise type(error)(f"{key}: {error}", retryable=error.retryable) from error
    if is_folder and not copies:
        raise ConfigError(f"{key}: {location} has no image; add the images that are opted out, or remove the list")
    values, packed = sort_values(np.concatenate(batches)), pack_entries(copies)
    digest = digest_values(values)
    if packed:
        digest = text_sha256(" ".join([digest, *(f"{kind} {digest_values(one)}" for kind, one in packed.items())]))
    return OptOutList(values, digest, packed)


def find_problems(locations: Mapping[str, str]) -> list[str]:
    """Return what is wrong with the lists on this machine; addresses are read when the run plans its stage."""
    problems: list[str] = []
    for name, location in locations.items():
        try:
            if not is_remote(location):
                _read_list(f"opt_out_lists.{name}", location)
        except (ConfigError, SourceError) as error:
            problems.append(str(error))
    return problems


def parse_entry(text: str) -> str:
    """Return the canonical form of an entry: `url:` without a scheme, `domain:`, `sha256:` or a perceptual digest.

    Raises: ValueError with the allowed forms.
    """
    if "*" in text and not text.startswith("url:"):
        text = _read_wildcard(text)
    elif site := _SITE.fullmatch(text):
        text = site[1].lower()
    if _PLAIN_HOST.fullmatch(text):
        kind, value = "domain", text
    elif _SCHEME.match(text):
        kind, value = "url", _canonicalise(text)
    elif _SHA256.fullmatch(text):
        kind, value = "sha256", text.lower()
    elif copy := parse_copy(text):
        return copy
    else:
        kind, value, _ = parse_target(text)
        if kind not in ("url", "domain", "sha256"):
            forms = " or ".join(f"{name}:HEX" for name in plugins.names(KIND))
            raise ValueError(f"{text[:80]!r} is no URL, no domain and no digest (64 hex digits of sha256, or {forms})")
    if kind == "domain" and not load_suffixes(private=False)(value).domain:
        raise ValueError(f"{value!r} is a public suffix, below which anybody may register; name a domain below it")
    return f"{kind}:{_SCHEME.sub('', value, count=1) if kind == 'url' else value}"


def _read_wildcard(text: str) -> str:
    """Return the domain of `*.example.com`, `https://example.com/*` and the like.

    Raises: ValueError for other wildcards.
    """
    found = _WILDCARD.fullmatch(text)
    if not found or "*" in found[1]:
        raise ValueError(
            f"{text[:80]!r}: only whole domains may have a wildcard; write a domain, or each URL (after url: a * is a *)"
        )
    return found[1].lower()


def _canonicalise(url: str) -> str:
    try:
        return canonicalise_url(url, "", _MAX_URL_CHARS)
    except BadUrl as bad:
        raise ValueError(f"{url[:80]!r} is no http or https URL ({bad.reason})") from bad


def _hash_texts(texts: Sequence[str] | pl.Series) -> Halves:
    from dataops.kernels.hashes import hash128  # numba takes 0.7 s to import, and most configs have no lists

    return hash128(pl.Series(texts, dtype=pl.String).to_arrow())


@dataclass(frozen=True)
class StoredLists:
    """Lists in the scratch of a snapshot, for its tasks. It is picklable."""

    names: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    kinds: tuple[tuple[str, ...], ...] = ()
    """The perceptual digests of each."""

    def load(self, draft: Draft) -> list[tuple[str, ValueSet]]:
        """Return the name and the entries of each list."""
        objects = [draft.scratch(_object_name(number)) for number in range(len(self.names))]
        return list(zip(self.names, map(partial(_load, draft.store.uri), objects, self.digests), strict=True))

    def load_copies(self, draft: Draft) -> list[CopyList]:
        """Return the entries of each list that are perceptual digests."""
        return [
            CopyList(name, kind, _load_copies(draft.store.uri, draft.scratch(f"{_object_name(number)}-{kind}"), digest))
            for number, (name, digest, kinds) in enumerate(zip(self.names, self.digests, self.kinds, strict=True))
            for kind in kinds
        ]


NO_LISTS = StoredLists()


def put_lists(draft: Draft, lists: Mapping[str, OptOutList]) -> StoredLists:
    """Write the hashed entries of the lists to the scratch of a snapshot."""
    for number, one in enumerate(lists.values()):
        draft.store.put(draft.scratch(_object_name(number)), one.values.astype(">u8").tobytes())
        for kind, entries in one.copies.items():
            file = io.BytesIO()
            np.save(file, entries, allow_pickle=False)
            draft.store.put(draft.scratch(f"{_object_name(number)}-{kind}"), file.getvalue())
    kinds = tuple(tuple(one.copies) for one in lists.values())
    return StoredLists(tuple(lists), tuple(one.digest for one in lists.values()), kinds)


def _object_name(number: int) -> str:
    return f"opt-out-list-{number}"


@lru_cache(maxsize=32)
def _load(uri: str, name: str, digest: str) -> ValueSet:
    """Return the entries in an object; a process reads each of them once. The digest is a part of the cache's key."""
    return ValueSet(parse_values(open_store(uri).read(name)))


@lru_cache(maxsize=32)
def _load_copies(uri: str, name: str, digest: str) -> Entries:
    """Return the perceptual digests in an object, likewise."""
    return np.load(io.BytesIO(open_store(uri).read(name)), allow_pickle=False)


def match_rows(rows: pa.Table, lists: Sequence[tuple[str, ValueSet]]) -> list[RowMatches]:
    """Return for each list which rows match it: by URL or domain of the image or the page, or by the image's sha256.

    A row also matches by the page of one of its further captions.
    """
    found = [np.zeros(rows.num_rows, bool) for _ in lists]
    tables: list[tuple[pa.Table, NDArray[np.int64] | None]] = [(rows, None)]
    if CAPTIONS.name in rows.column_names:
        tables.append(list_captions(rows))
    for table, parents in tables:
        for column in ("url", "page_url", "sha256"):
            if column not in table.column_names:
                continue
            texts = pl.Series(table[column].cast(pa.string()))
            for mask, matched in zip(found, _match_column(column, texts, [values for _, values in lists]), strict=True):
                mask[matched if parents is None else parents[matched]] = True
    return [RowMatches(name, mask) for (name, _), mask in zip(lists, found, strict=True)]


def _match_column(column: str, texts: pl.Series, sets: Sequence[ValueSet]) -> list[NDArray[np.bool_]]:
    hashes, domains, starts, numbers = _hash_column(column, texts)
    return [
        values.contains(hashes)
        | (np.logical_or.reduceat(values.contains(domains), starts)[numbers] if len(starts) else False)
        for values in sets
    ]


def _hash_column(column: str, texts: pl.Series) -> tuple[Halves, Halves, NDArray[np.intp], NDArray[np.int64]]:
    """Return the hash of each value; those of the domains of each distinct host, where they begin, and each row's host."""
    texts = texts.fill_null("")
    if column == "sha256":
        none = np.zeros(0, np.int64)
        return _hash_texts("sha256:" + texts), np.zeros((0, 2), np.uint64), none, none
    hosts = texts.str.extract(r"^https?://([^/?#:]+)", 1).fill_null("")
    distinct = hosts.unique()
    labels = [host.split(".") for host in distinct.to_list()]
    domains = _hash_texts([f"domain:{'.'.join(parts[at:])}" for parts in labels for at in range(len(parts))])
    starts = np.cumsum([0, *map(len, labels)])[:-1]
    numbers = hosts.replace_strict(distinct, np.arange(len(distinct)), return_dtype=pl.Int64).to_numpy()
    return _hash_texts("url:" + texts.str.replace("^https?:", "")), domains, starts, numbers


def count_matches(
    key: str, tables: Iterable[pa.Table], lists: Sequence[tuple[str, ValueSet]]
) -> dict[str, dict[str, int]]:
    """Count by list its entries, those that match a row, and the rows; log which lists match none.

    Args:
        key: the key of the config, for messages.
        tables: with `url` and `page_url`; at least the rows that the lists drop.
    """
    matched = {name: [np.zeros((0, 2), np.uint64)] for name, _ in lists}
    rows = dict.fromkeys(matched, 0)
    for table in tables:
        for one in match_rows(table, lists):
            rows[one.name] += int(one.mask.sum())
        for column in ("url", "page_url"):
            for found in _hash_column(column, pl.Series(table[column].cast(pa.string())))[:2]:
                for name, values in lists:
                    matched[name].append(found[values.contains(found)])
    counts = {
        name: {"entries": len(values), "matched": len(sort_values(np.concatenate(matched[name]))), "rows": rows[name]}
        for name, values in lists
    }
    for name, count in counts.items():
        if count["entries"] and not count["rows"]:
            what = f"none of its {format_quantity(count['entries'], 'entry', 'entries')} names a URL or domain of a row"
            logger.warning("%s.%s: %s; check how its entries are written", key, name, what)
    return counts


def mark_rows(rows: pl.DataFrame, matches: Sequence[RowMatches]) -> pl.Series:
    """Return `page_opt_out` of the rows with the name of each list that matches, such as `noai,list:letters`."""
    marks = [
        pl.select(pl.when(pl.Series(one.mask)).then(pl.lit(f"{MARK}{one.name}"))).to_series().alias(f"{MARK}{number}")
        for number, one in enumerate(matches)
    ]
    columns = pl.DataFrame([rows["page_opt_out"], *marks])
    joined = columns.select(pl.concat_str(pl.all(), separator=",", ignore_nulls=True)).to_series()
    return pl.select(pl.when(joined != "").then(joined)).to_series().alias("page_opt_out")
