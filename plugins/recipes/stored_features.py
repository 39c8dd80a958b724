"""Features of the pairs of a dataset in a folder: blocks of rows, which are mapped and never read as a whole.

A block holds the features of BLOCK consecutive samples of the index: (rows, 2, D) float16, of the image and of the
caption, each of unit norm. A row of NaN belongs to an image that the model could not read. The name of the folder is the
digest of the model and of the samples, so trainings with the same model and dataset share it.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from dataops.digest import text_sha256
from dataops.errors import ContractError
from dataops.regular_files import open_regular, read_text
from dataops.storage.cached_files import hold
from training.data.sample_index import SampleIndex

BLOCK = 8192
VERSION = 1
"""Version of the features, raised when the same model and samples give other ones."""
HEADER = "header.json"


def feature_folder(parent: Path, model_digest: str, fingerprint: str) -> Path:
    """Return the folder of a model's features of the samples of an index."""
    return parent / text_sha256(f"{VERSION} {model_digest} {fingerprint}")[:32]


def block_path(folder: Path, number: int) -> Path:
    """Return the path of a block."""
    return folder / f"block-{number:06d}.npy"


def block_samples(number: int, samples: int, block: int = BLOCK) -> range:
    """Return the samples of a block."""
    return range(number * block, min((number + 1) * block, samples))


def map_block(path: Path, rows: int) -> np.ndarray:
    """Map a block. Raises: ValueError if it has another shape; OSError."""
    with open_regular(path):
        block = np.load(path, mmap_mode="r", allow_pickle=False)
    if block.ndim != 3 or block.shape[:2] != (rows, 2) or block.dtype != np.float16:
        raise ValueError(f"{path} has the shape {block.shape}, not ({rows}, 2, width)")
    return block


_map_block_once = lru_cache(maxsize=4096)(map_block)


@dataclass(frozen=True)
class StoredFeatures:
    """The features that a model has of the samples of an index."""

    folder: Path
    model: str
    """Name of the model."""
    index: SampleIndex
    shards: list[str]
    """Names of the shards, for messages."""
    logit_scale: float
    """Log of the inverse temperature of the model."""
    block: int = BLOCK
    """Samples of a block."""

    def read(self, samples: np.ndarray) -> np.ndarray:
        """Return the features of some samples, as Plan.batch numbers them: (B, 2, D) float32, of image and caption.

        Raises: ContractError if the model has no features of a sample.
        """
        own = samples % len(self.index)
        blocks = [_map_block_once(block_path(self.folder, b), len(self._rows(b))) for b in (own // self.block).tolist()]
        found = np.stack([block[row] for block, row in zip(blocks, (own % self.block).tolist(), strict=True)])
        missing = np.flatnonzero(np.isnan(found).any(axis=(1, 2)))
        if len(missing):
            sample = int(own[missing[0]])
            shard = self.index.shard_of(sample)
            raise ContractError(
                f"{self.model} has no features of sample {self.index.key(sample)!r} of {self.shards[shard]}: it could not "
                "read the image; remove the sample, or train without this model"
            )
        return found.astype(np.float32)

    def _rows(self, number: int) -> range:
        return block_samples(number, len(self.index), self.block)


def open_features(
    folder: Path, model: str, index: SampleIndex, shards: list[str], block: int = BLOCK
) -> StoredFeatures:
    """Open the features of a folder, all of whose blocks are there; this process holds it, since blocks are read late."""
    hold(folder)
    header = json.loads(read_text(folder / HEADER))
    return StoredFeatures(folder, model, index, shards, header["logit_scale"], block)
