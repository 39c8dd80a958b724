"""The encoder of BERT, read as the mean of its tokens or at the first one, as sentence encoders are.

Its weights are BERT's, in fewer tensors: queries, keys and values lie in one, and the embedding of the first token type,
which each token of a single text has, is added to the positions. Source: Devlin et al. 2019; Reimers and Gurevych 2019.

Legend: B batch, L tokens, W width, H heads, K width of a head.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.model.towers import Network
from training.model_config import BertConfig


class BertBlock(nn.Module):
    """Attention, then a perceptron; a layer norm after each."""

    def __init__(self, width: int, heads: int, mlp_width: int, norm_eps: float):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.fc1 = nn.Linear(width, mlp_width)
        self.fc2 = nn.Linear(mlp_width, width)
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)

    def forward(self, x_BLW: Tensor, is_real_B11L: Tensor) -> Tensor:
        """Attend from each token to the real ones of its text."""
        B, L, W = x_BLW.shape
        q_BHLK, k_BHLK, v_BHLK = (
            self.qkv(x_BLW).view(B, L, 3, self.heads, W // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        )
        y_BHLK = F.scaled_dot_product_attention(q_BHLK, k_BHLK, v_BHLK, attn_mask=is_real_B11L)
        x_BLW = self.norm1(x_BLW + self.out(y_BHLK.transpose(1, 2).reshape(B, L, W)))
        return self.norm2(x_BLW + self.fc2(F.gelu(self.fc1(x_BLW))))


class Bert(Network):
    """Texts to features; token 0 is padding."""

    def __init__(
        self,
        *,
        vocab_size: int,
        context_length: int,
        width: int,
        heads: int,
        layers: int,
        mlp_width: int,
        norm_eps: float,
        pooling: str,
    ):
        super().__init__()
        self.pooling = pooling
        self.token_embedding = nn.Embedding(vocab_size, width, padding_idx=0)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, width))
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.blocks = nn.ModuleList(BertBlock(width, heads, mlp_width, norm_eps) for _ in range(layers))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.02)

    def forward(self, ids_BL: Tensor) -> Tensor:
        """Return the features (B, W)."""
        positions_L = torch.arange(ids_BL.shape[1], device=ids_BL.device)
        is_real_BL = (ids_BL != 0) | (positions_L == 0)  # attention to no token at all is not defined
        x_BLW = self.norm(self.token_embedding(ids_BL) + self.positional_embedding[: ids_BL.shape[1]])
        for block in self.blocks:
            x_BLW = block(x_BLW, is_real_BL[:, None, None])
        if self.pooling == "first":
            return x_BLW[:, 0]
        is_real_BL1 = is_real_BL.unsqueeze(2)
        return (x_BLW * is_real_BL1).sum(dim=1) / is_real_BL1.sum(dim=1)

    def shift_outputs(self, shift_W: Tensor) -> None:
        """Add a vector to each token's last output, and so to their mean or the first of them."""
        last = self.blocks[-1].get_submodule("norm2").get_parameter("bias")
        last += shift_W.to(last.device)

    def groups(self) -> list[list[nn.Parameter]]:
        """Return the parameters in groups from the input on."""
        first = [*self.token_embedding.parameters(), self.positional_embedding, *self.norm.parameters()]
        return [first, *(list(block.parameters()) for block in self.blocks)]


def build(config: BertConfig) -> Bert:
    """Build the network, with random weights."""
    return Bert(**config.model_dump(exclude={"kind", "projector_layers", "projector_norm", "projector_width"}))
