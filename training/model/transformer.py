"""The transformer of both towers, and the vision transformer. Names of parameters are OpenAI's.

Legend: B batch, L tokens, T tokens of all texts, D width, H heads, K width of a head (of indices: kept patches), S side
of an image.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from training.model.packing import PackedTexts, keep_patches, pad, unpad


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the approximation that OpenAI's weights were trained with."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it elementwise."""
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Multi-head self-attention with the parameter names of torch.nn.MultiheadAttention."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x_BLD: Tensor, *, causal: bool, texts: PackedTexts | None = None) -> Tensor:
        """Attend from each token to all of its text, or, if causal, to itself and those before it.

        Args:
            x_BLD: (B, L, D), or (T, D) with `texts`.

        Returns: the shape of the input.
        """
        qkv_BLD3 = self.project(x_BLD)
        if texts is not None:
            qkv_BLD3 = pad(qkv_BLD3, texts)
        B, L, D = *qkv_BLD3.shape[:2], x_BLD.shape[-1]
        q_BHLK, k_BHLK, v_BHLK = qkv_BLD3.view(B, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        x_BHLK = F.scaled_dot_product_attention(q_BHLK, k_BHLK, v_BHLK, is_causal=causal)
        x_BLD = x_BHLK.transpose(1, 2).reshape(B, L, D)
        return self.out_proj(x_BLD if texts is None else unpad(x_BLD, texts))

    def project(self, x_BLD: Tensor) -> Tensor:
        """Return query, key and value of each token, one after the other."""
        return F.linear(x_BLD, self.in_proj_weight, self.in_proj_bias)


class FeedForward(nn.Module):
    """The two-layer perceptron of a block."""

    def __init__(self, width: int, *, quick_gelu: bool):
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.gelu = QuickGELU() if quick_gelu else nn.GELU()
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Apply it to each token."""
        return self.c_proj(self.gelu(self.c_fc(x_BLD)))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, *, quick_gelu: bool):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width, quick_gelu=quick_gelu)

    def forward(self, x_BLD: Tensor, *, causal: bool, texts: PackedTexts | None = None) -> Tensor:
        """Add attention, then the perceptron, each to its input."""
        x_BLD = x_BLD + self.attn(self.ln_1(x_BLD), causal=causal, texts=texts)
        return x_BLD + self.mlp(self.ln_2(x_BLD))


class Transformer(nn.Module):
    """A stack of blocks.

    Initialised as in OpenAI's release (clip/model.py, `initialize_parameters`): output projections
    shrink with depth.
    """

    def __init__(self, width: int, layers: int, heads: int, *, quick_gelu: bool):
        super().__init__()
        self.grad_checkpointing = False
        self.resblocks = nn.ModuleList(Block(width, heads, quick_gelu=quick_gelu) for _ in range(layers))
        residual_std = width**-0.5 * (2 * layers) ** -0.5
        for block in self.resblocks:
            assert isinstance(block, Block)
            nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=residual_std)
            nn.init.zeros_(block.attn.out_proj.bias)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=residual_std)

    def forward(self, x_BLD: Tensor, *, causal: bool, texts: PackedTexts | None = None) -> Tensor:
        """Apply all blocks in turn to (B, L, D), or to (T, D) with `texts`."""
        recompute = self.grad_checkpointing and torch.is_grad_enabled()
        options = {"causal": causal, "texts": texts}
        for block in self.resblocks:
            if recompute:
                output = checkpoint(block, x_BLD, use_reentrant=False, preserve_rng_state=False, **options)
                assert isinstance(output, Tensor)
                x_BLD = output
            else:
                x_BLD = block(x_BLD, **options)
        return x_BLD


class VisionTransformer(nn.Module):
    """Patches to features through a transformer, read at a class token. Source: Dosovitskiy et al. 2021."""

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        width: int,
        layers: int,
        heads: int,
        output_dim: int,
        quick_gelu: bool,
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size, bias=False)
        scale = width**-0.5
        self.class_embedding = nn.Parameter(torch.randn(width).mul_(scale))
        self.positional_embedding = nn.Parameter(torch.randn((image_size // patch_size) ** 2 + 1, width).mul_(scale))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, layers, heads, quick_gelu=quick_gelu)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.randn(width, output_dim).mul_(scale))

    def forward(self, images_B3SS: Tensor, kept_BK: Tensor | None = None) -> Tensor:
        """Return features (B, output_dim), not normalised, of all patches or of those at `kept_BK` (indices from 0)."""
        patches_BLD = self.conv1(images_B3SS).flatten(2).transpose(1, 2)
        positions_LD = self.positional_embedding.to(patches_BLD.dtype)
        start_B1D = (self.class_embedding.to(patches_BLD.dtype) + positions_LD[0]).expand(patches_BLD.shape[0], 1, -1)
        patches_BLD = patches_BLD + positions_LD[1:]
        if kept_BK is not None:
            patches_BLD = keep_patches(patches_BLD, kept_BK)
        x_BLD = torch.cat([start_B1D, patches_BLD], dim=1)
        # As in open_clip, the stream between the blocks has the type of the products, half the bytes of the norm's.
        x_BLD = self.transformer(self.ln_pre(x_BLD).to(x_BLD.dtype), causal=False)
        return self.ln_post(x_BLD[:, 0]) @ self.proj
