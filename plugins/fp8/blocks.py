"""Matrix products of transformer blocks in fp8, by torchao. This module is imported only where a config asks for it.

The weights, their names and their gradients stay as they are: each product casts its two operands, with a scale of their
own for each tensor. Source: Micikevicius et al. 2022, "FP8 formats for deep learning", section 3.

Legend: B batch, L tokens, D width.
"""

import torch
from torch import Tensor
from torchao.float8 import Float8LinearConfig, convert_to_float8_training
from torchao.float8.float8_linear import Float8Linear, matmul_with_hp_or_float8_args

from training.model.clip import CLIP
from training.model.transformer import Attention, Block


class Fp8Attention(Attention):
    """Attention that computes query, key and value in fp8, as its output projection does: torchao converts modules only."""

    def project(self, x_BLD: Tensor) -> Tensor:
        """Return query, key and value of each token, one after the other."""
        like = self.out_proj
        assert isinstance(like, Float8Linear)
        if torch.is_autocast_enabled(x_BLD.device.type):
            x_BLD = x_BLD.to(torch.get_autocast_dtype(x_BLD.device.type))
        qkv_BLD3 = matmul_with_hp_or_float8_args.apply(
            x_BLD, self.in_proj_weight.t(), like.linear_mm_config, like.config
        )
        assert isinstance(qkv_BLD3, Tensor)
        return qkv_BLD3 + self.in_proj_bias.to(qkv_BLD3.dtype)


def convert_blocks(model: CLIP, *, emulate: bool) -> None:
    """Let all transformer blocks compute their products with weights in fp8, in place.

    Args:
        emulate: cast the operands to fp8, and multiply them in their former precision, as a device without fp8 can.
    """
    model.is_converted = True
    # The number of tokens of a batch is no multiple of 16, as a product in fp8 needs: pad_inner_dim adds zeros.
    config = Float8LinearConfig(emulate=emulate, pad_inner_dim=True)
    for block in (module for module in model.modules() if isinstance(module, Block)):
        convert_to_float8_training(block, config=config)
        block.attn.__class__ = Fp8Attention
