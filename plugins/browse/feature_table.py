"""Keep features of images on this machine, and search them exactly.

Features are computed once for each model and image. They lie under `PAIRMILL_HOME/browse/features/<model>-<preparation>`::

    dimensions.json     {"dimensions": D}
    features.f32        D float32 of each image
    ids.bin             16 bytes of each image: the first half of the sha256 of its bytes as fetched

`preparation` is a digest of the settings by which the download made the image of the shard from these bytes. Features are
written before their ids, so that a killed process leaves at most features without an id, which are overwritten.
"""

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dataops.digest import canonical_json, text_sha256
from dataops.errors import CorruptPart, LeaseLost
from dataops.home import private_folder
from dataops.snapshot import Manifest

ID_BYTES = 16
IDS_FILE = "ids.bin"
NO_IMAGE = 0xFF
"""Each byte of the id in the place of an erased one."""
IMAGE_SETTINGS = frozenset(
    {"image_size", "resize_mode", "resize_quality", "resize_only_if_bigger", "encode_format", "encode_quality"}
)
"""Settings of a download that decide the bytes of an image in a shard."""


def preparation_digest(download: Manifest | None) -> str:
    """Return 16 hex digits over what made the images of the shards from the bytes as fetched."""
    settings = {} if download is None else {k: v for k, v in download.config.items() if k in IMAGE_SETTINGS}
    version = 0 if download is None else download.stage_version
    return text_sha256(canonical_json([version, settings]))[:16]


def image_ids(sha256: Sequence[str | None]) -> NDArray[np.uint64]:
    """Return the ids (N, 2) of images by their sha256 in hex; zeros where there is none."""
    text = "".join(value[: 2 * ID_BYTES] if value and len(value) == 64 else "0" * 2 * ID_BYTES for value in sha256)
    try:
        data = bytes.fromhex(text)
    except ValueError as error:
        raise CorruptPart("the column sha256 has a value that is not hexadecimal") from error
    return np.frombuffer(data, "<u8").reshape(-1, 2)


class FeatureTable:
    """The features of one model and preparation."""

    def __init__(self, folder: Path):
        self._folder = private_folder(folder)
        self._ids, self._features, self._dimensions = (
            folder / name for name in (IDS_FILE, "features.f32", "dimensions.json")
        )

    @property
    def dimensions(self) -> int:
        """Number of values of a feature; 0 in an empty table."""
        if not self._dimensions.exists():
            return 0
        return int(json.loads(self._dimensions.read_text("utf-8"))["dimensions"])

    def __len__(self) -> int:
        return self._ids.stat().st_size // ID_BYTES if self._ids.exists() else 0

    def ids(self) -> NDArray[np.uint64]:
        """Return the ids (N, 2) of all images."""
        if not self._ids.exists():
            return np.zeros((0, 2), np.uint64)
        data = self._ids.read_bytes()
        return np.frombuffer(data[: len(data) // ID_BYTES * ID_BYTES], "<u8").reshape(-1, 2)

    def features(self) -> NDArray[np.float32]:
        """Return the features (N, D), mapped from the disk."""
        count, dimensions = len(self), self.dimensions
        if not count or not dimensions:
            return np.zeros((0, dimensions), np.float32)
        if self._features.stat().st_size < count * dimensions * 4:
            raise CorruptPart(f"{self._folder} is damaged; delete it, and compute the features again")
        return np.memmap(self._features, np.float32, "r", shape=(count, dimensions))

    def add(self, ids: NDArray[np.uint64], features: NDArray[np.float32]) -> None:
        """Append features (N, D) with their ids (N, 2). Raises: LeaseLost while another process appends."""
        with self._lock():
            known = self.dimensions or features.shape[1]
            if features.shape != (len(ids), known):
                raise CorruptPart(f"{self._folder}: features of {known} values are expected, not {features.shape}")
            self._dimensions.write_text(json.dumps({"dimensions": known}), "utf-8")
            count = len(self)
            for path, start, data in (
                (self._features, count * known * 4, np.ascontiguousarray(features, "<f4").tobytes()),
                (self._ids, count * ID_BYTES, np.ascontiguousarray(ids, "<u8").tobytes()),
            ):
                with path.open("r+b" if path.exists() else "w+b") as file:
                    file.seek(start)
                    file.write(data)
                    file.truncate()

    def erase(self, ids: NDArray[np.uint64]) -> int:
        """Overwrite the features of images (N, 2) and then their ids; return their number. Raises: LeaseLost as `add`."""
        with self._lock():
            known = self.ids()
            sought = {bytes(one) for one in ids}
            places = [place for place, one in enumerate(known) if bytes(one) in sought]
            for path, kind, width, value in (
                (self._features, np.float32, self.dimensions, 0),
                (self._ids, np.uint8, ID_BYTES, NO_IMAGE),
            ):
                if places:
                    table = np.memmap(path, kind, "r+")
                    table.reshape(-1, width)[places] = value
                    table.flush()
            return len(places)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with (self._folder / ".lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise LeaseLost(f"another process computes features in {self._folder}") from error
            yield

    def locate(self, wanted: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the position of each id (N, 2) in the table; -1 where it is missing."""
        known = self.ids()
        table = pl.DataFrame({"high": known[:, 0], "low": known[:, 1]}).with_row_index("at")
        rows = pl.DataFrame({"high": wanted[:, 0], "low": wanted[:, 1]})
        table = table.unique(["high", "low"], keep="last", maintain_order=True)
        found = rows.join(table, on=["high", "low"], how="left", maintain_order="left")
        return found["at"].cast(pl.Int64).fill_null(-1).to_numpy()

    def scores(self, query: NDArray[np.float32], positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the cosine of a unit-norm query (D,) with the features at positions (N,); -2 where a position is -1."""
        features = self.features()
        cosines = features @ query if len(features) else []
        return np.append(cosines, np.float32(-2))[positions].astype(np.float32, copy=False)


def best(scores: NDArray[np.float32], limit: int) -> NDArray[np.int64]:
    """Return the positions of the highest scores above -2, best first; equal scores are in their order."""
    limit = min(limit, len(scores))
    if not limit:
        return np.zeros(0, np.int64)
    least = np.partition(scores, len(scores) - limit)[len(scores) - limit]
    candidates = np.flatnonzero((scores >= least) & (scores > -2))
    order = np.lexsort((candidates, -scores[candidates]))
    return candidates[order[:limit]]
