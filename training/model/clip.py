"""CLIP: an image tower and a text tower into one space. State-dict keys are those of OpenAI and open_clip.

Legend: B batch, L tokens, T tokens of all texts of a batch, D embed_dim, W width of the text tower, S side of an image,
K kept patches.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from training.model.packing import PackedTexts, select_ends
from training.model.preprocess import MEAN, STD
from training.model.resnet import ModifiedResNet
from training.model.towers import BackboneTower, PaddedTexts, PretrainedTextTower
from training.model.transformer import Block, Transformer, VisionTransformer
from training.model_config import BackboneConfig, ModelConfig, TextConfig

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Types of the towers' products by `train.precision`; those of fp32 are their weights' own."""


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which towers compute in a precision."""
    return torch.autocast(device.type, DTYPES.get(precision, torch.bfloat16), enabled=precision in DTYPES)


@cache
def compile_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function as one graph, for any number of rows."""
    return torch.compile(function, fullgraph=True)


class Outputs(NamedTuple):
    """What a loss takes; all of it passes through `forward`, as DistributedDataParallel needs."""

    image_features_BD: Tensor
    """Image features, not normalised. Under autocast their type may differ from that of the text features."""
    text_features_BD: Tensor
    """Text features, not normalised."""
    logit_scale: Tensor
    """Scalar, log of the inverse temperature."""
    logit_bias: Tensor | None
    """Scalar that the sigmoid loss adds to each logit; None in a model for the softmax loss."""


class CLIP(nn.Module):
    """Two towers and their temperature.

    `text` is the text tower of a model with word vectors or BERT, and None in all others, whose
    text tower is CLIP's own and has the modules `transformer` to `text_projection`.

    A tower that is locked as a whole computes no gradient: `image_locked` and `text_locked`.

    `logit_scale` is the log of the inverse temperature. `logit_bias` is None unless the config sets
    its initial value. Texts are (B, L) token ids of any L up to the context length, padded after
    their end-of-text token, which has the highest id of a row. Under the causal mask what follows
    that token cannot change its feature, so a batch that is cut to its longest text has the
    features of a padded one.

    Source: Radford et al. 2021, sections 2.4 and 2.5; the sigmoid loss's bias: Zhai et al. 2023 (SigLIP), section 3.2.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        text = config.text_cfg
        self.visual = _image_tower(config)
        self.text = None if isinstance(text, TextConfig) else PretrainedTextTower(text, config.embed_dim)
        if isinstance(text, TextConfig):
            self.transformer = Transformer(text.width, text.layers, text.heads, quick_gelu=config.quick_gelu)
            self.token_embedding = nn.Embedding(text.vocab_size, text.width)
            self.positional_embedding = nn.Parameter(torch.empty(text.context_length, text.width))
            self.ln_final = nn.LayerNorm(text.width)
            self.text_projection = nn.Parameter(torch.empty(text.width, config.embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(config.init_logit_scale))
        bias = config.init_logit_bias
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(bias))
        self.image_locked = self.text_locked = self.is_compiled = self.is_converted = False
        if isinstance(text, TextConfig):
            nn.init.normal_(self.token_embedding.weight, std=0.02)
            nn.init.normal_(self.positional_embedding, std=0.01)
            nn.init.normal_(self.text_projection, std=text.width**-0.5)

    def lock_image(self) -> None:
        """Freeze the whole image tower."""
        self.image_locked = True
        self.visual.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode as in any module; a batch norm whose gain is frozen keeps its statistics."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm) and not module.weight.requires_grad:
                module.eval()
        return self

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the inputs of the transformers' blocks for the backward pass, and recompute the rest there."""
        for module in self.modules():
            if isinstance(module, Transformer):
                module.grad_checkpointing = enable

    def encode_image(self, images_B3SS: Tensor, kept_BK: Tensor | None = None) -> Tensor:
        """Encode images.

        Args:
            images_B3SS: normalised pixels.
            kept_BK: indices of the patches that each image keeps; None: all. A ResNet takes only None.

        Returns: features (B, D), not normalised.
        """
        if self.is_compiled:
            mark_sizes(images_B3SS, *(() if kept_BK is None else (kept_BK,)))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.image_locked):
            return self.visual(images_B3SS) if kept_BK is None else self.visual(images_B3SS, kept_BK)

    def encode_text(self, texts: Tensor | PackedTexts | PaddedTexts) -> Tensor:
        """Encode texts, reading each feature at its end-of-text token.

        Args:
            texts: token ids (B, L), or the same texts without padding. Training packs them, since web captions fill a
                fifth of the context. A text tower of another network takes the features of that network too.

        Returns: features (B, D), not normalised.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.text_locked):
            if self.text is None:
                assert not isinstance(texts, PaddedTexts)
                return self._encode_text(texts)
            assert not isinstance(texts, PackedTexts)
            return self.text(texts)

    def _encode_text(self, texts: Tensor | PackedTexts) -> Tensor:
        if isinstance(texts, PackedTexts):
            embed = compile_function(_embed) if self.is_compiled else _embed
            if self.is_compiled:
                mark_sizes(*texts)
            x_TW = embed(texts.tokens_T, texts.positions_T, self.token_embedding.weight, self.positional_embedding)
            if self.is_compiled:
                mark_sizes(x_TW)
            x_BW = select_ends(self.transformer(x_TW, causal=True, texts=texts), texts)
        else:
            x_BLW = self.token_embedding(texts) + self.positional_embedding[: texts.shape[1]]
            x_BLW = self.transformer(x_BLW, causal=True)
            x_BW = x_BLW[torch.arange(texts.shape[0], device=texts.device), texts.argmax(dim=1)]
        return self.ln_final(x_BW) @ self.text_projection

    def forward(
        self, images_B3SS: Tensor, texts: Tensor | PackedTexts | PaddedTexts, kept_BK: Tensor | None = None
    ) -> Outputs:
        """Encode both, and return them with the loss's parameters. Arguments: see encode_image and encode_text."""
        images_BD = self.encode_image(images_B3SS) if kept_BK is None else self.encode_image(images_B3SS, kept_BK)
        return Outputs(images_BD, self.encode_text(texts), self.logit_scale, self.logit_bias)


def compile_towers(model: CLIP, *, by_block: bool = False) -> None:
    """Compile the image tower as one graph, and the blocks of the text tower, which share one, for any number of tokens.

    Pixels, embeddings of words and the blocks of the loss are further graphs (`compile_function`).

    The parameters keep their names. Evaluation, whose sizes differ, should run under
    torch.compiler.set_stance( "force_eager").

    Args:
        by_block: compile the blocks of a vision transformer in place of the tower, as a sharded model needs: the weights
            of a block are gathered between graphs. They are compiled once more if the number of pairs changes.
    """
    # DistributedDataParallel's own splitting of graphs does not support the gradients of selections.
    torch._dynamo.config.optimize_ddp = False
    # The blocks of both towers are one function to the compiler: for images and texts, with gradients and without them as
    # the gradient cache needs, for one pair and for more.
    torch._dynamo.config.recompile_limit = 32
    model.is_compiled = True
    if by_block:
        for block in (module for module in model.modules() if isinstance(module, Block)):
            block.forward = torch.compile(block.forward, fullgraph=True)  # the hooks around it are not compiled
        return
    model.visual.compile(fullgraph=type(model.visual) is VisionTransformer)  # batch norm of several ranks breaks it
    if model.text is not None:
        model.text.compile()
        return
    for block in model.transformer.resblocks:
        block.compile(fullgraph=True)


def _embed(tokens_T: Tensor, positions_T: Tensor, words_VW: Tensor, positions_LW: Tensor) -> Tensor:
    return F.embedding(tokens_T, words_VW) + F.embedding(positions_T, positions_LW)


def mark_sizes(*tensors: Tensor) -> None:
    """Let torch.compile expect other sizes of the first dimension, and of the second of indices.

    The sides of images are fixed: each phase of a training has graphs of its own.
    """
    for tensor in tensors:
        is_image = tensor.ndim == 4
        if is_image:
            torch._dynamo.mark_static(tensor, [1, 2, 3])
        for dimension in range(1 if is_image or tensor.is_floating_point() else tensor.ndim):
            torch._dynamo.maybe_mark_dynamic(tensor, dimension)


def _image_tower(config: ModelConfig) -> nn.Module:
    vision = config.vision_cfg
    if isinstance(vision, BackboneConfig):
        return BackboneTower(vision, config.embed_dim, MEAN, STD)
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
