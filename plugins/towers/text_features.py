"""The features of a frozen text tower: of each prompt with each caption, once.

Legend: B batch, N texts, W width of a feature.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataops.digest import canonical_json, text_sha256
from plugins.towers.feature_files import VERSION, read_features, write_features
from training import distributed
from training.evaluation.encode import map_in_order
from training.model.clip import autocast
from training.model.tokenizer import Tokenizer
from training.model.towers import PretrainedTextTower
from training.progress import Progress

TEXTS_PER_BATCH = 64
ROWS_AT_ONCE = 65_536

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextFeatures:
    """Features by text."""

    tower: PretrainedTextTower
    tokenizer: Tokenizer
    rows: dict[str, int]
    features_NW: np.ndarray
    precision: str = "fp32"
    """fp32, or bf16 for autocast."""
    centre_W: Tensor | None = None
    """Mean that is subtracted from the rows, and by `centre` in the tower too; None: nothing is."""

    def centre(self, texts: Iterable[str]) -> "TextFeatures":
        """Return the features minus the mean of some, which the bias of the tower's last layer subtracts from now on."""
        rows = np.unique(np.fromiter((self.rows[text] for text in texts), np.int64))
        if not len(rows):
            return self
        total_W = np.zeros(self.features_NW.shape[1])
        for start in range(0, len(rows), ROWS_AT_ONCE):
            total_W += self.features_NW[rows[start : start + ROWS_AT_ONCE]].sum(axis=0, dtype=np.float64)
        centre_W = torch.from_numpy(total_W / len(rows)).float()
        with torch.no_grad():
            self.tower.encoder.shift_outputs(-centre_W)
        return replace(self, centre_W=centre_W)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return the features (B, W) of texts, on the CPU; one that is not among the rows is computed by itself."""
        found = [self.rows.get(text) for text in texts]
        features_BW = torch.from_numpy(np.array(self.features_NW[[row or 0 for row in found]]))
        if self.centre_W is not None:
            features_BW -= self.centre_W * (features_BW != 0).any(dim=1, keepdim=True)  # 0: a text without a word
        for number, (text, row) in enumerate(zip(texts, found, strict=True)):
            if row is None:
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
    texts: Iterable[str],
    weights_digest: str,
    folder: Path,
    precision: str,
) -> TextFeatures:
    """Return the features of texts, which one rank of each machine reads or computes; all ranks together.

    On the CPU each batch is the work of one thread, so that the features have the same bits on any number of them.

    Args:
        texts: in any order; of equal ones, one counts.
        weights_digest: of all that decides what the tower's network computes.
        folder: keeps the features, in a file named after the digest, the texts, the precision and the kind of device.
        precision: fp32, or bf16 for autocast.
    """
    ordered = sorted(set(texts))
    width, device = tower.feature_width, next(tower.parameters()).device
    names = sha256()
    for text in ordered:
        names.update(f"{len(text)} {text}".encode("utf-8", "surrogatepass"))
    key = text_sha256(
        canonical_json([VERSION, weights_digest, device.type, precision, tokenizer.context_length, names.hexdigest()])
    )
    path = folder / f"texts-{key}.npy"

    def prepare() -> None:
        if read_features(path, len(ordered), width) is not None:
            logger.info("the features of %s texts are known", f"{len(ordered):,}")
            return
        progress = Progress("pretrained network", "captions", len(ordered))
        lengths = (tokenizer(ordered) != 0).sum(dim=1).numpy() if ordered else np.empty(0, np.int64)
        order = np.argsort(lengths, kind="stable")
        batches = [order[start : start + TEXTS_PER_BATCH] for start in range(0, len(order), TEXTS_PER_BATCH)]
        was_training = tower.training
        tower.eval()

        def compute(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return rows, encode(tower, tokenizer, [ordered[row] for row in rows], precision).numpy()

        computed = map_in_order(compute, batches) if device.type == "cpu" else map(compute, batches)
        write_features(path, len(ordered), width, progress.follow(computed, lambda batch: len(batch[0])))
        tower.train(was_training)
        progress.end()

    distributed.run_together(prepare if distributed.local_rank() == 0 else None)
    features_NW = read_features(path, len(ordered), width)
    assert features_NW is not None
    return TextFeatures(tower, tokenizer, {text: row for row, text in enumerate(ordered)}, features_NW, precision)
