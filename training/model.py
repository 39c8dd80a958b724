"""CLIP: an image tower and a text tower into one space. State-dict keys are those of OpenAI and open_clip.

Legend: B batch, L tokens, D embed_dim, S side of the picture.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.config import ModelConfig
from training.resnet import ModifiedResNet
from training.transformer import Packing, Transformer, VisionTransformer

INITIAL_LOGIT_SCALE = math.log(1 / 0.07)  # Radford et al. 2021, section 2.5


class CLIP(nn.Module):
    """Two towers and their temperature.

    `logit_scale` is the log of the inverse temperature. Texts are (B, L) token ids of any L up to the context length,
    padded after their end-of-text token, which has the highest id of a row: under the causal mask what follows it
    cannot change its feature, so a batch trimmed to its longest text gives what a padded one gives.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        text = config.text_cfg
        self.visual = _image_tower(config)
        self.transformer = Transformer(text.width, text.layers, text.heads, quick_gelu=config.quick_gelu)
        self.token_embedding = nn.Embedding(text.vocab_size, text.width)
        self.positional_embedding = nn.Parameter(torch.empty(text.context_length, text.width))
        self.ln_final = nn.LayerNorm(text.width)
        self.text_projection = nn.Parameter(torch.empty(text.width, config.embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=text.width**-0.5)

    def encode_image(self, images_B3SS: Tensor) -> Tensor:
        """Features (B, D), not normalised, of normalised pictures."""
        return self.visual(images_B3SS)

    def encode_text(self, tokens_BL: Tensor) -> Tensor:
        """Features (B, D), not normalised, read at the end-of-text token."""
        if self.training:
            return self._encode_packed(tokens_BL)
        x_BLW = self.token_embedding(tokens_BL) + self.positional_embedding[: tokens_BL.shape[1]]
        x_BLW = self.transformer(x_BLW, causal=True)
        rows = torch.arange(len(tokens_BL), device=tokens_BL.device)
        x_BW = self.ln_final(x_BLW[rows, tokens_BL.argmax(dim=1)])
        return x_BW @ self.text_projection

    def _encode_packed(self, tokens_BL: Tensor) -> Tensor:
        """The same features without the work for padding: web captions fill a fifth of the context."""
        ends_B = tokens_BL.argmax(dim=1)
        packing = Packing.up_to(ends_B, int(ends_B.max()) + 1 if len(ends_B) else 0)
        tokens_BL = tokens_BL[:, : packing.shape[1]]
        positions_T = packing.places_T % max(packing.shape[1], 1)
        x_TW = self.token_embedding(tokens_BL.flatten().index_select(0, packing.places_T))
        x_TW = x_TW + F.embedding(positions_T, self.positional_embedding)
        x_TW = self.transformer(x_TW, causal=True, packing=packing)
        x_BW = self.ln_final(x_TW.index_select(0, (ends_B + 1).cumsum(0) - 1))
        return x_BW @ self.text_projection

    def forward(self, images_B3SS: Tensor, tokens_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features of both and logit_scale: all that the loss needs passes here, as DistributedDataParallel asks."""
        return self.encode_image(images_B3SS), self.encode_text(tokens_BL), self.logit_scale


def _image_tower(config: ModelConfig) -> nn.Module:
    vision = config.vision_cfg
    if isinstance(vision.layers, tuple):
        return ModifiedResNet(
            layers=vision.layers,
            width=vision.width,
            heads=vision.width * 32 // vision.head_width,
            image_size=vision.image_size,
            output_dim=config.embed_dim,
        )
    assert vision.patch_size is not None
    return VisionTransformer(
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        width=vision.width,
        layers=vision.layers,
        heads=vision.width // vision.head_width,
        output_dim=config.embed_dim,
        quick_gelu=config.quick_gelu,
    )
