"""The features of a frozen image tower: of the square at the centre of each image, and of changed copies of it, once.

Legend: B batch, S side of the input, N samples of a shard, W width of a feature.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
import xxhash
from torch import Tensor

from dataops.digest import file_sha256
from dataops.storage.cached_files import mark_used
from plugins.towers.feature_files import (
    VERSION,
    is_whole,
    name_shard_features,
    read_features,
    write_array,
    write_features,
)
from training import distributed
from training.data.loader import Dataset
from training.data.shard_files import find_checksum
from training.evaluation.encode import IMAGES_PER_THREAD, map_in_order
from training.model.clip import autocast
from training.model.preprocess import normalize
from training.model.towers import BackboneTower
from training.progress import Progress

GPU_IMAGES_PER_BATCH = 256
MOST_REMEMBERED = 1_000_000
"""Maximum number of images whose features are not computed again for another shard."""
Change = Callable[[np.ndarray, np.ndarray, int], Tensor]
"""Maps pixels (B, S, S, 3), the hashes of their files and the number of a copy to the inputs (B, 3, S, S) of the image
tower."""


Image = tuple[int, int, str]
"""The number of a copy, the hash of an image file, and its faces."""
Images = dict[Image, list[int]]
Known = dict[Image, np.ndarray]
"""Features (W,) on disk."""


@dataclass(frozen=True)
class ImageFeatures:
    """Features by sample, and the reason of each sample that has none."""

    firsts: list[int]
    """First sample of each shard."""
    arrays: list[list[np.ndarray]]
    """Features of each shard: of the plain images, and of each copy."""
    errors: list[dict[int, str]]

    @property
    def width(self) -> int:
        """Numbers of a feature."""
        return self.arrays[0][0].shape[1]

    def read(self, shard: int, sample: int, draw: float) -> np.ndarray:
        """Return the feature (W,) of a sample, of the plain image or of a copy.

        Args:
            draw: number in [0, 1) that chooses between them.

        Raises: ValueError with the reason if its image cannot be read.
        """
        row, arrays = sample - self.firsts[shard], self.arrays[shard]
        if (reason := self.errors[shard].get(row)) is not None:
            raise ValueError(reason)
        return arrays[int(draw * len(arrays))][row]


@dataclass(frozen=True)
class _File:
    """The features of a shard's images, or of one copy of them."""

    path: Path
    samples: range
    copy: int

    @property
    def hashes(self) -> Path:
        """Path of the hashes of the samples' images."""
        return self.path.with_suffix(".hashes.npy")

    @property
    def errors(self) -> Path:
        """Path of the reasons of the samples that have none; it is written last."""
        return self.path.with_suffix(".errors.npy")

    def is_whole(self) -> bool:
        return all(map(is_whole, (self.errors, self.path, self.hashes)))

    def read(self, width: int) -> np.ndarray | None:
        return read_features(self.path, len(self.samples), width)

    def read_errors(self) -> dict[int, str]:
        mark_used(self.errors)
        reasons = np.load(self.errors, allow_pickle=False)
        return {int(row): str(reasons[row]) for row in np.flatnonzero(reasons != "")}

    def read_images(self, same: Images, width: int) -> Known:
        """Return the features of the images that could be read."""
        errors, array = self.read_errors(), self.read(width)
        assert array is not None
        rows = {image: samples[0] - self.samples.start for image, samples in same.items()}
        return {image: array[row] for image, row in rows.items() if row not in errors}

    def read_others(self, images: Collection[Image], width: int) -> Known:
        """Return the features of those images that the file of another shard has."""
        found, wanted = Known(), {_hash(image): image for image in images}
        for path in sorted(self.path.parent.glob(f"images-*-{self.path.stem.rpartition('-')[2]}.npy")):
            other = _File(path, self.samples, self.copy)
            try:
                hashes, errors = np.load(other.hashes, allow_pickle=False), other.read_errors()
            except (OSError, ValueError):  # it is being written or deleted
                continue
            if (array := read_features(path, len(hashes), width)) is None:
                continue
            same = np.flatnonzero(np.isin(hashes, list(wanted)))
            for row in same if len(same) and other.is_whole() else ():
                if int(row) not in errors and (image := wanted.pop(int(hashes[row]), None)) is not None:
                    found[image] = array[row]
        return found


def prepare_image_features(
    tower: BackboneTower,
    dataset: Dataset,
    checksums: Mapping[str, str],
    decides: list[object],
    folder: Path,
    *,
    precision: str = "fp32",
    copies: int = 0,
    change: Change | None = None,
    decides_change: object = None,
) -> ImageFeatures:
    """Return the features of a dataset's images, which the ranks of each machine read or compute; all ranks together.

    Args:
        checksums: sha256 of the shards (training/data/shard_files.py); that of another is computed.
        decides: all that decides what the tower's network computes.
        folder: keeps the features, in a file for each shard and copy named after the shard's sha256, and the digest of
            `decides`, the side of the input, the precision and the kind of device. Those of an image that another file
            of this digest has are copied.
        precision: fp32, or bf16 for autocast.
        copies: number of changed copies of each image.
        change: makes them, by a seed that depends on the image's bytes alone.
        decides_change: all that decides what it does.
    """
    device, width = next(tower.parameters()).device, tower.feature_width
    files: list[list[_File]] = []
    for shard, path in enumerate(dataset.files.paths):
        sha256, samples = find_checksum(checksums, path) or file_sha256(path), dataset.index.samples_of(shard)
        of_all = [VERSION, *decides, device.type, precision, dataset.image_size]
        of_copies = [of_all, *([*of_all, decides_change, copy] for copy in range(1, copies + 1))]
        # The digests are those of all shards: an image that is in a new shard too is not computed again.
        names = [name_shard_features("images", sha256, one) for one in of_copies]
        files.append([_File(folder / name, samples, copy) for copy, name in enumerate(names)])
    share = [one for of_shard in files for one in of_shard][distributed.local_rank() :: distributed.local_world_size()]

    def prepare() -> None:
        missing = {one.path: len(one.samples) for one in share if not one.is_whole() or one.read(width) is None}
        known: Known = {}
        progress = Progress("pretrained network", "images", sum(missing.values()))
        was_training = tower.training
        tower.eval()
        for one in share if missing else ():
            same = _group_samples(dataset, one)
            if one.path in missing:
                known |= one.read_others(same.keys() - known.keys(), width)
                _compute_file(tower, dataset, one, same, change if one.copy else None, precision, progress, known)
            if len(known) + len(same) <= MOST_REMEMBERED:
                known |= one.read_images(same, width)
        tower.train(was_training)
        progress.end()

    distributed.run_together(prepare)
    arrays = [[array for one in of_shard if (array := one.read(width)) is not None] for of_shard in files]
    assert all(len(of_shard) == copies + 1 for of_shard in arrays)
    errors = [plain.read_errors() for plain, *_ in files]
    return ImageFeatures([plain.samples.start for plain, *_ in files], arrays, errors)


def _hash(image: Image) -> int:
    return xxhash.xxh3_64_intdigest(repr(image).encode())


def _group_samples(dataset: Dataset, file: _File) -> Images:
    """Return the samples of each image, which has several captions."""
    same: Images = {}
    for sample in file.samples:
        same.setdefault((file.copy, dataset.image_hash(sample), str(dataset.index.faces(sample))), []).append(sample)
    return same


def _compute_file(
    tower: BackboneTower,
    dataset: Dataset,
    file: _File,
    same: Images,
    change: Change | None,
    precision: str,
    progress: Progress,
    known: Known,
) -> None:
    device, width, samples = next(tower.parameters()).device, tower.feature_width, file.samples
    encoder = tower.encoder.fold(torch.bfloat16 if precision == "bf16" else torch.float32)
    errors: dict[int, str] = {}

    def load(batch: list[list[int]]) -> tuple[list[np.ndarray], np.ndarray]:
        rows, squares = [], []
        for of_image in batch:
            numbers = np.array(of_image) - samples.start
            try:
                squares.append(dataset.load_square(of_image[0]))
                rows.append(numbers)
            except ValueError as error:
                errors.update((int(number), str(error)) for number in numbers)
        side = dataset.image_size
        return rows, np.stack(squares) if squares else np.empty((0, side, side, 3), np.uint8)

    def encode(loaded: tuple[list[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        rows, pixels_BSS3 = loaded
        if not rows:
            return np.empty(0, np.int64), np.empty((0, width), np.float32)
        if change is None:
            images_B3SS = normalize(torch.from_numpy(pixels_BSS3).to(device).permute(0, 3, 1, 2).float() / 255)
        else:
            hashes = np.array([dataset.image_hash(samples.start + int(numbers[0])) for numbers in rows])
            images_B3SS = change(pixels_BSS3, hashes, file.copy)
        with torch.no_grad(), autocast(device, precision):
            features_BW = tower.encode(images_B3SS, encoder).float().cpu().numpy()
        return np.concatenate(rows), features_BW.repeat([len(numbers) for numbers in rows], axis=0)

    images = [found for key, found in same.items() if key not in known]
    size = IMAGES_PER_THREAD if device.type == "cpu" else GPU_IMAGES_PER_BATCH
    batches = [images[start : start + size] for start in range(0, len(images), size)]
    if device.type == "cpu":
        results = map_in_order(lambda batch: encode(load(batch)), batches)
    else:
        results = map(encode, map_in_order(load, batches))

    file.path.parent.mkdir(parents=True, exist_ok=True)
    file.errors.unlink(missing_ok=True)
    copied = (
        (np.array(found) - samples.start, known[key][None].repeat(len(found), axis=0))
        for key, found in same.items()
        if key in known
    )
    results = progress.follow(chain(copied, results), lambda batch: len(batch[0]))
    write_features(file.path, len(samples), width, results)
    hashes = np.zeros(len(samples), np.uint64)
    for image, found in same.items():
        hashes[np.array(found) - samples.start] = _hash(image)
    write_array(file.hashes, hashes)
    write_array(file.errors, np.array([errors.get(row, "") for row in range(len(samples))], str))
