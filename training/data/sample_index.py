"""The index of a dataset's samples: a folder of columns that is built once and that all ranks of a machine map.

A rank holds some bytes a shard of its own. A folder is written under another name, synced and
renamed, so a crash leaves a whole index or none. `index.json`, written last, holds a fingerprint of the shards, and size
and hash of each column: an index that differs in any of them is built again. The columns are plain arrays, no pickle.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash

from dataops.ahead import take_results
from dataops.digest import canonical_json, text_sha256
from dataops.errors import ConfigError, ContractError
from dataops.regular_files import open_regular, read_text
from training.data.epoch_order import Sampling, Windows
from training.data.shard_files import ShardFiles, find_checksum, rows_of_shard
from training.data.shard_index import (
    LINK,
    NO_FACE_DETECTION,
    ROW_SPAN,
    SPAN,
    Box,
    ShardSamples,
    Skipped,
    index_shard,
)

logger = logging.getLogger(__name__)

VERSION = 1
"""Version of the format, and of what decides which samples an index holds."""
HEADER = "index.json"
LOG_SECONDS = 10.0
READ_BYTES = 1 << 16
LINKS_AT_ONCE = 1 << 20
SMALL_BYTES, SMALL_AT_ONCE = 1 << 18, 16
"""A thread indexes this many shards of less than these bytes at a time: to hand one over takes as long as to read it."""
MEASURED_PAIRS = 4096
"""Maximum number of held-out pairs that a training measures."""
SHARD = np.dtype([("samples", "<u8"), ("keys", "<u8"), ("key_bytes", "<u4")])
"""Number of a shard's samples, and offset and width of their keys in the column `keys`."""
COLUMNS = {
    "shards": SHARD,
    "spans": SPAN,
    "keys": np.dtype("u1"),
    "probabilities": np.dtype("<f8"),
    "identities": np.dtype("<u8"),
    "face_ends": np.dtype("<u8"),
    "faces": np.dtype("<f8"),
    "skipped": np.dtype("u1"),
    "rows": ROW_SPAN,
    "links": LINK,
    "held": np.dtype("<u8"),
    "measured": np.dtype("<u8"),
}
"""`rows` are there if captions are chosen from them. With a hold-out, `held` has in ascending order the samples that are
never trained on, and `measured` those of them that are measured: they are like no sample that is trained on, nor like
each other.

`probabilities` and `identities` are there if a sample has a probability below 1, the faces if they are to be blurred."""


def fingerprint_shards(
    files: ShardFiles, checksums: Mapping[str, str], *, blur_faces: bool, with_rows: bool = False, holdout: float = 0.0
) -> str:
    """Return a digest of all that decides an index: the shards' contents, or where no checksum is listed, their times.

    Raises: ConfigError if a file cannot be read.
    """
    shards: list[list[Any]] = []
    for number, path in enumerate(files.paths):
        checksum = find_checksum(checksums, path)
        arrives = files.arrives(number)
        beside = [path.with_suffix(".idx"), *([rows_of_shard(path)] if arrives else [])]
        try:
            states = [file.stat() if file.exists() else None for file in beside]
            states += [] if arrives else [path.stat()]
            size = files.size(number)
        except OSError as error:
            raise ConfigError(f"shard {path}: {error.strerror or error}") from error
        # The times of copies of a file differ between machines; a checksum is that of all copies.
        known = [None if s is None else [s.st_size, *([] if checksum else [s.st_mtime_ns])] for s in states]
        shards.append([path.name, size, checksum, arrives, known])
    chosen = [*(["rows"] if with_rows else []), *([["holdout", holdout]] if holdout else [])]
    return text_sha256(canonical_json([VERSION, blur_faces, shards, *chosen]))


@dataclass(frozen=True, eq=False)
class SampleIndex:
    """The samples of a dataset, by number, in the order of the shards and of the members in each."""

    fingerprint: str
    columns: Mapping[str, np.ndarray]
    """See COLUMNS."""

    def __len__(self) -> int:
        return len(self.columns["spans"])

    @cached_property
    def sizes(self) -> np.ndarray:
        """Number of samples of each shard (shards,)."""
        return self.columns["shards"]["samples"].astype(np.int64)

    @cached_property
    def _ends(self) -> list[int]:
        return np.cumsum(self.sizes).tolist()

    @cached_property
    def skipped(self) -> list[Skipped]:
        """Samples without an image or a caption, or with an invalid probability; they have no number."""
        return [Skipped(**json.loads(line)) for line in self.columns["skipped"].tobytes().splitlines()]

    @property
    def sampling(self) -> Sampling | None:
        """Probabilities of the samples; None if each is seen in every epoch."""
        if "probabilities" not in self.columns:
            return None
        return Sampling(self.columns["probabilities"], self.columns["identities"])

    @property
    def measured(self) -> np.ndarray:
        """The held-out samples that are measured, by the hash that chose them; empty without a hold-out."""
        return self.columns.get("measured", np.empty(0, np.uint64)).astype(np.int64)

    def without_held(self, samples: range) -> Iterator[int]:
        """Yield the samples of a range that are trained on."""
        held = self.columns.get("held", np.empty(0, np.uint64))
        left_out = set(held[slice(*np.searchsorted(held, [samples.start, samples.stop]))].tolist())
        return (sample for sample in samples if sample not in left_out)

    def windows(self, at_once: int) -> Windows | None:
        """Return windows of `at_once` shards; None for 0, all of them."""
        return Windows(self.sizes, at_once) if at_once else None

    def shard_of(self, sample: int) -> int:
        """Return the shard of a sample."""
        return bisect_right(self._ends, sample)

    def samples_of(self, shard: int) -> range:
        """Return the samples of a shard."""
        end = self._ends[shard]
        return range(end - int(self.sizes[shard]), end)

    def image_span(self, sample: int) -> tuple[int, int]:
        """Return offset and size of an image in its shard."""
        return self.columns["spans"][sample].item()[:2]

    def caption_span(self, sample: int) -> tuple[int, int]:
        """Return offset and size of a caption in its shard."""
        return self.columns["spans"][sample].item()[2:]

    def row_span(self, sample: int) -> tuple[int, int]:
        """Return offset and size of a sample's JSON in its shard; (0, 0) if it has none."""
        return self.columns["rows"][sample].item()

    def key(self, sample: int) -> str:
        """Return the key of a sample."""
        shard = self.shard_of(sample)
        _, start, width = self.columns["shards"][shard].item()
        start += (sample - self.samples_of(shard).start) * width
        return self.columns["keys"][start : start + width].tobytes().rstrip(b"\0").decode("utf-8", "surrogateescape")

    def faces(self, sample: int) -> list[Box]:
        """Return the boxes to blur in an image."""
        if "face_ends" not in self.columns:
            return []
        first = int(self.columns["face_ends"][sample - 1]) if sample else 0
        boxes = self.columns["faces"][4 * first : 4 * int(self.columns["face_ends"][sample])].tolist()
        return list(zip(*(iter(boxes),) * 4, strict=True))


def open_index(folder: Path, fingerprint: str) -> SampleIndex | None:
    """Map an index; None if there is none, or it is of other shards, of another version, or not whole."""
    try:
        header = json.loads(read_text(folder / HEADER))
        if header["version"] != VERSION or header["fingerprint"] != fingerprint:
            return None
        return SampleIndex(
            fingerprint,
            {name: _map(folder / name, COLUMNS[name], header["columns"][name]["bytes"]) for name in header["columns"]},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def verify_index(folder: Path, fingerprint: str) -> bool:
    """Return whether a folder holds this index whole, by the hash of each column."""
    if open_index(folder, fingerprint) is None:
        return False
    columns = json.loads(read_text(folder / HEADER))["columns"]
    return all(_hash_file(folder / name) == column["xxh3"] for name, column in columns.items())


def build_index(
    folder: Path,
    files: ShardFiles,
    fingerprint: str,
    *,
    blur_faces: bool,
    workers: int,
    with_rows: bool = False,
    holdout: float = 0.0,
) -> None:
    """Write the index of some shards in place of what the folder holds, in the memory of a few shards.

    Args:
        workers: threads that read shards.
        with_rows: index the JSON of each sample too.
        holdout: share of the samples that are held out.

    Raises:
        ConfigError: there is no shard, or one cannot be opened.
        OSError: the folder cannot be written.
        ContractError: a shard is not a whole tar file, there is no pair in any, or no sample has the field of its
            faces.
    """
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    writer = _Writer(part)
    try:
        logged = time.monotonic()
        index = partial(index_shard, files, blur_faces=blur_faces, holdout=holdout)
        for number, shard in enumerate(_index_shards(files, index, workers), 1):
            writer.append(shard, with_rows=with_rows)
            if time.monotonic() - logged > LOG_SECONDS:
                logged = time.monotonic()
                logger.info("%s of %s shards are indexed", f"{number:,}", f"{len(files.paths):,}")
        if holdout:
            writer.choose_measured()
        writer.write_header(fingerprint)
    finally:
        writer.close()
    if writer.samples == 0 and writer.without_detection:
        raise ContractError(
            "train.blur_faces: no sample has face_bboxes; add [curate.scores.faces] and make the dataset again"
        )
    if writer.samples == 0:
        raise ContractError(f"no pair of image and caption in {len(files.paths)} shards, such as {files.label(0)}")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def _index_shards(files: ShardFiles, index: Callable[[int], ShardSamples], workers: int) -> Iterator[ShardSamples]:
    """Yield the samples of each shard in order, a few ahead of their use; the first shard shows whether they are small."""
    numbers = range(len(files.paths))
    step = SMALL_AT_ONCE if files.size(0) < SMALL_BYTES else 1
    with ThreadPoolExecutor(max(workers, 1), thread_name_prefix="index") as pool:
        calls = (pool.submit(list, map(index, numbers[first : first + step])) for first in numbers[::step])
        yield from chain.from_iterable(take_results(calls, 2 * workers, pool))


@dataclass
class _Column:
    """A column that is being written."""

    file: BinaryIO
    size: int = 0
    hash: Any = field(default_factory=xxhash.xxh3_128)

    def append(self, array: np.ndarray | bytes) -> None:
        data = array if isinstance(array, bytes) else array.tobytes()
        self.file.write(data)
        self.hash.update(data)
        self.size += len(data)


class _Writer:
    """Appends the samples of shards to the columns of a folder."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._columns: dict[str, _Column] = {}
        self.samples, self._faces = 0, 0
        self._held: list[np.ndarray] = []
        self.without_detection = False

    def append(self, shard: ShardSamples, *, with_rows: bool) -> None:
        keys = np.array([key.encode("utf-8", "surrogateescape") for key in shard.keys] or [b""])
        about = np.array([(len(shard.keys), self._size("keys"), keys.itemsize)], SHARD)
        self._column("shards").append(about)
        self._column("spans").append(shard.spans)
        self._column("keys").append(keys if shard.keys else b"")
        if "probabilities" in self._columns or (shard.probabilities < 1).any():
            if "probabilities" not in self._columns:
                self._fill_certain()
            self._column("probabilities").append(shard.probabilities)
            self._column("identities").append(shard.identities)
        if shard.faces is not None:
            ends = self._faces + np.cumsum([len(boxes) for boxes in shard.faces], dtype=np.uint64)
            self._column("face_ends").append(ends)
            self._column("faces").append(np.array([box for boxes in shard.faces for box in boxes], np.float64))
            self._faces += sum(map(len, shard.faces))
        if with_rows:
            self._column("rows").append(shard.row_spans)
        if shard.links is not None and shard.held is not None:
            for records in (shard.links, shard.held):
                records["sample"] += np.uint64(self.samples)
            self._column("links").append(shard.links)
            self._held.append(shard.held)
        self._column("skipped").append(b"".join(json.dumps(asdict(item)).encode() + b"\n" for item in shard.skipped))
        self.without_detection |= any(item.reason == NO_FACE_DETECTION for item in shard.skipped)
        self.samples += len(shard.keys)

    def choose_measured(self) -> None:
        """Write the held-out samples, and which of them are measured, of the links that were written before.

        A held-out sample that is like one that is trained on, such as by its caption, is neither trained on nor
        measured. So what is trained on depends on the sample alone, and no trained sample is like a measured one.
        """
        self._column("links").file.flush()
        links = _map(self._folder / "links", LINK, self._size("links"))
        held = np.concatenate(self._held)
        chunks = [links[i : i + LINKS_AT_ONCE] for i in range(0, len(links), LINKS_AT_ONCE)]
        own = np.concatenate(
            [np.empty(0, LINK), *(chunk[np.isin(chunk["sample"], held["sample"])] for chunk in chunks)]
        )
        seen: set[int] = set()
        for chunk in chunks:
            is_trained = ~np.isin(chunk["sample"], held["sample"])
            seen.update(chunk["hash"][is_trained & np.isin(chunk["hash"], own["hash"])].tolist())
        links_of: dict[int, list[int]] = {}
        for sample, link in own.tolist():
            links_of.setdefault(sample, []).append(link)
        measured: list[int] = []
        for sample in held["sample"][np.lexsort((held["sample"], held["hash"]))].tolist():
            if len(measured) < MEASURED_PAIRS and seen.isdisjoint(links_of[sample]):
                measured.append(sample)
                seen.update(links_of[sample])
        self._column("held").append(held["sample"])
        self._column("measured").append(np.array(measured, np.uint64))

    def write_header(self, fingerprint: str) -> None:
        columns = {name: {"bytes": one.size, "xxh3": one.hash.hexdigest()} for name, one in self._columns.items()}
        header = {"version": VERSION, "fingerprint": fingerprint, "columns": columns}
        self._column(HEADER).append(canonical_json(header).encode())

    def close(self) -> None:
        for column in self._columns.values():
            column.file.flush()
            os.fsync(column.file.fileno())
            column.file.close()

    def _fill_certain(self) -> None:
        """Write the columns of the sampling for the samples before the first that has a probability below 1."""
        for first in range(0, self.samples, READ_BYTES):
            count = min(READ_BYTES, self.samples - first)
            self._column("probabilities").append(np.ones(count))
            self._column("identities").append(np.zeros(count, np.uint64))

    def _column(self, name: str) -> _Column:
        if name not in self._columns:
            self._columns[name] = _Column((self._folder / name).open("wb"))
        return self._columns[name]

    def _size(self, name: str) -> int:
        return self._columns[name].size if name in self._columns else 0


def _map(path: Path, dtype: np.dtype[Any], size: int) -> np.ndarray:
    """Map a column for reading. Raises: ValueError if the file has another size."""
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size != size or size % dtype.itemsize:
            raise ValueError(f"{path} has not {size:,} bytes")
        return np.asarray(np.memmap(file, dtype, "r")) if size else np.empty(0, dtype)


def _hash_file(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
