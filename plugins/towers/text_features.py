"""The features of a frozen text tower: of each prompt with each caption, once.

Legend: B batch, N texts of a shard, W width of a feature.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from plugins.towers.feature_files import VERSION, is_whole, name_shard_features, read_features, write_array
from training import distributed
from training.evaluation.encode import map_in_order
from training.model.clip import autocast
from training.model.tokenizer import Tokenizer
from training.model.towers import PretrainedTextTower
from training.progress import Progress

TEXTS_VERSION = 2
"""Raised, beside VERSION, when the same texts get other features."""
TEXTS_PER_BATCH = 64
LEAST_TEXTS = 4
"""A batch of fewer is filled up with texts of its own: matrix products of few rows have other last bits, in fp32."""
TEXTS_PER_GROUP = 100_000

logger = logging.getLogger(__name__)
File = tuple[Path, list[str]]
"""The path of a shard's features, and its texts."""


@dataclass(frozen=True)
class TextFeatures:
    """Features by text."""

    tower: PretrainedTextTower
    tokenizer: Tokenizer
    places: dict[str, tuple[int, int]]
    """Shard and row of each text."""
    arrays: list[np.ndarray]
    """Features (N, W) of each shard."""
    precision: str = "fp32"
    """fp32, or bf16 for autocast."""
    centre_W: Tensor | None = None
    """Mean that is subtracted from the rows, and by `centre` in the tower too; None: nothing is."""

    def centre(self, texts: Iterable[str]) -> "TextFeatures":
        """Return the features minus the mean of some, which the bias of the tower's last layer subtracts from now on."""
        chosen = sorted({self.places[text] for text in texts})
        if not chosen:
            return self
        total_W = np.zeros(self.tower.feature_width)
        for shard, row in chosen:
            total_W += self.arrays[shard][row]
        centre_W = torch.from_numpy(total_W / len(chosen)).float()
        with torch.no_grad():
            self.tower.encoder.shift_outputs(-centre_W)
        return replace(self, centre_W=centre_W)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return the features (B, W) of texts, on the CPU; one that is of no shard is computed by itself."""
        places = [self.places.get(text) for text in texts]
        features_BW = torch.zeros(len(texts), self.tower.feature_width)
        for number, place in enumerate(places):
            if place is not None:
                features_BW[number] = torch.from_numpy(self.arrays[place[0]][place[1]].copy())
        if self.centre_W is not None:
            features_BW -= self.centre_W * (features_BW != 0).any(dim=1, keepdim=True)  # 0: a text without a word
        for number, (text, place) in enumerate(zip(texts, places, strict=True)):
            if place is None:
                features_BW[number] = encode(self.tower, self.tokenizer, [text], self.precision)[0]
        return features_BW


def encode(tower: PretrainedTextTower, tokenizer: Tokenizer, texts: Sequence[str], precision: str) -> Tensor:
    """Return the network's features (B, W) in fp32, on the CPU; with precision bf16, autocast computes them."""
    device = next(tower.parameters()).device
    with torch.no_grad(), autocast(device, precision):
        return tower.encode(tokenizer(texts).to(device)).float().cpu()


def prepare_text_features(
    tower: PretrainedTextTower,
    tokenizer: Tokenizer,
    shards: Iterable[tuple[str, Iterable[str]]],
    weights_digest: str,
    folder: Path,
    precision: str,
    at_once: int = TEXTS_PER_GROUP,
) -> TextFeatures:
    """Return the features of texts, which one rank of each machine reads or computes; all ranks together.

    On the CPU each batch is the work of one thread, so that the features have the same bits on any number of them.

    Args:
        shards: sha256 of each shard, and its texts in any order; of equal ones, one counts.
        weights_digest: of all that decides what the tower's network computes.
        folder: keeps the features, in a file for each shard named after its sha256, and the digest of the texts, the
            precision and the kind of device.
        precision: fp32, or bf16 for autocast.
        at_once: maximum texts of several shards whose features are in memory together; equal ones are computed once.
    """
    width, device = tower.feature_width, next(tower.parameters()).device
    decides = [VERSION, TEXTS_VERSION, weights_digest, device.type, precision, tokenizer.context_length]
    files: dict[Path, list[str]] = {}
    for sha256, texts in shards:
        ordered = sorted(set(texts))
        files[folder / name_shard_features("texts", sha256, [*decides, ordered])] = ordered

    def prepare() -> None:
        missing = [
            (path, texts)
            for path, texts in files.items()
            if not is_whole(path) or read_features(path, len(texts), width) is None
        ]
        if not missing:
            logger.info("the features of the texts of %s shards are known", f"{len(files):,}")
            return
        groups = list(_group_files(missing, at_once))
        total = sum(len({text for _, texts in group for text in texts}) for group in groups)
        progress = Progress("pretrained network", "captions", total)
        was_training = tower.training
        tower.eval()
        for group in groups:
            _compute_files(tower, tokenizer, group, precision, progress)
        tower.train(was_training)
        progress.end()

    distributed.run_together(prepare if distributed.local_rank() == 0 else None)
    found = [read_features(path, len(texts), width) for path, texts in files.items()]
    arrays = [np.asarray(array) for array in found if array is not None]  # rows of memory-mapped ones cost more
    assert len(arrays) == len(files)
    places = {text: (shard, row) for shard, texts in enumerate(files.values()) for row, text in enumerate(texts)}
    return TextFeatures(tower, tokenizer, places, arrays, precision)


def _group_files(files: list[File], at_once: int) -> Iterator[list[File]]:
    """Yield groups of files with at most `at_once` texts in all, or of a single larger one."""
    group: list[File] = []
    size = 0
    for path, texts in files:
        if group and size + len(texts) > at_once:
            yield group
            group, size = [], 0
        group.append((path, texts))
        size += len(texts)
    yield group


def _compute_files(
    tower: PretrainedTextTower, tokenizer: Tokenizer, files: list[File], precision: str, progress: Progress
) -> None:
    """Write the features of shards' texts. A batch has texts of one length: padding would change bits of shorter ones."""
    texts = sorted({text for _, of_shard in files for text in of_shard})
    rows = {text: row for row, text in enumerate(texts)}
    lengths = (tokenizer(texts) != 0).sum(dim=1).tolist() if texts else []
    batches: list[list[int]] = []
    for _, equal in groupby(sorted(range(len(texts)), key=lengths.__getitem__), key=lengths.__getitem__):
        of_length = list(equal)
        batches += [of_length[start : start + TEXTS_PER_BATCH] for start in range(0, len(of_length), TEXTS_PER_BATCH)]

    def compute(batch: list[int]) -> tuple[list[int], np.ndarray]:
        filled = (batch * LEAST_TEXTS)[: max(len(batch), LEAST_TEXTS)]
        features = encode(tower, tokenizer, [texts[row] for row in filled], precision)
        return batch, features[: len(batch)].numpy()

    is_cpu = next(tower.parameters()).device.type == "cpu"
    computed = map_in_order(compute, batches) if is_cpu else map(compute, batches)
    features_NW = np.empty((len(texts), tower.feature_width), np.float32)
    for batch, features in progress.follow(computed, lambda found: len(found[0])):
        features_NW[batch] = features
    for path, of_shard in files:
        numbers = [rows[text] for text in of_shard]
        write_array(path, features_NW[numbers])
