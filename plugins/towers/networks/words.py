"""The mean of word vectors.

Legend: B batch, L tokens, W width.
"""

from torch import Tensor, nn

from training.model.towers import Network
from training.model_config import WordVectorsConfig


class WordVectors(Network):
    """A table of vectors; row 0 is padding, and so is each token that has no vector."""

    def __init__(self, *, vocab_size: int, width: int):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width, padding_idx=0)
        nn.init.normal_(self.embedding.weight[1:], std=0.02)

    def forward(self, ids_BL: Tensor) -> Tensor:
        """Return the means (B, W); 0 for a text without a vector."""
        is_real_BL1 = (ids_BL != 0).unsqueeze(2)
        sums_BW = (self.embedding(ids_BL) * is_real_BL1).sum(dim=1)
        return sums_BW / is_real_BL1.sum(dim=1).clamp(min=1)

    def shift_outputs(self, shift_W: Tensor) -> None:
        """Add a vector to each word's, and so to their mean; row 0 is no word."""
        self.embedding.weight[1:] += shift_W.to(self.embedding.weight.device)

    def groups(self) -> list[list[nn.Parameter]]:
        """Return the parameters in groups from the input on."""
        return [list(self.embedding.parameters())]


def build(config: WordVectorsConfig) -> WordVectors:
    """Build the table, with random vectors."""
    return WordVectors(vocab_size=config.vocab_size, width=config.width)
