"""The model that training starts with, and the patches that it sees: what a config sets beyond plain CLIP.

Legend: B batch, K kept patches.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dataops.errors import ConfigError
from training.config import TrainConfig
from training.data.keyed_random import draw_uniforms
from training.losses.loss import find_loss
from training.model.clip import CLIP
from training.model.pretrained import load_towers
from training.model.resnet import ModifiedResNet
from training.model.towers import BackboneTower, group_tower
from training.model_config import ModelConfig, TextConfig, VisionConfig
from training.step_hooks import used_step_hooks

# The layers of both towers in the order of their depth: those that are locked -----------------------------------------


def group_layers(model: CLIP) -> tuple[list[list[nn.Parameter]], list[list[nn.Parameter]]]:
    """Return the parameters of the image tower and of the text tower, in groups from the input on.

    A transformer has its embeddings, each block, the last one with the norm after it, and the
    projection. A ResNet has its stem, its four stages, and the attention pool. A tower of another
    network has that network's groups, and the projector. Source of a transformer's groups:
    open_clip's `lock` of either tower.
    """
    visual = model.visual
    if isinstance(visual, ModifiedResNet):
        stem = [visual.conv1, visual.bn1, visual.conv2, visual.bn2, visual.conv3, visual.bn3]
        stages = (visual.layer1, visual.layer2, visual.layer3, visual.layer4, visual.attnpool)
        image = [_parameters(stem), *(_parameters([stage]) for stage in stages)]
    elif isinstance(visual, BackboneTower):
        image = group_tower(visual)
    else:
        first = [visual.conv1, visual.class_embedding, visual.positional_embedding, visual.ln_pre]
        image = _transformer_groups(first, visual.transformer.resblocks, visual.ln_post, visual.proj)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    if model.text is not None:
        return image, group_tower(model.text)
    text = _transformer_groups(
        [model.token_embedding, model.positional_embedding],
        model.transformer.resblocks,
        model.ln_final,
        model.text_projection,
    )
    return image, text


def lock_groups(groups: list[list[nn.Parameter]], unlocked: int) -> None:
    """Freeze all groups but the last `unlocked`."""
    for parameters in groups[: len(groups) - unlocked]:
        for parameter in parameters:
            parameter.requires_grad_(False)


def _transformer_groups(
    first: Sequence[nn.Module | nn.Parameter], blocks: nn.ModuleList, norm: nn.Module, projection: nn.Parameter
) -> list[list[nn.Parameter]]:
    *inner, last = blocks
    return [_parameters(first), *(_parameters([block]) for block in inner), _parameters([last, norm]), [projection]]


def _parameters(items: Sequence[nn.Module | nn.Parameter]) -> list[nn.Parameter]:
    found: list[nn.Parameter] = []
    for item in items:
        found += [item] if isinstance(item, nn.Parameter) else item.parameters()
    return found


def build_initial_model(config: TrainConfig, dimensions: ModelConfig) -> CLIP:
    """Build a model on the CPU, its first weights drawn or read, and its layers locked as the config says.

    On the device `meta` it has no weights: those of rank 0 follow (training/sharding.py).

    Raises:
        ConfigError: settings contradict the model, or the weights of `init` do not fit it.
    """
    vision = dimensions.vision_cfg
    resnet = isinstance(vision, VisionConfig) and isinstance(vision.layers, tuple)
    if config.patch_dropout and (resnet or not isinstance(vision, VisionConfig)):
        raise ConfigError("patch_dropout: a ResNet has no patches; set 0, or train a ViT")
    if config.sharding != "none" and not (
        isinstance(vision, VisionConfig) and isinstance(dimensions.text_cfg, TextConfig)
    ):
        raise ConfigError('sharding: only the transformers of CLIP are sharded; set "none"')
    if config.sharding != "none" and resnet:
        raise ConfigError('sharding: a ResNet is not sharded, since it fits on one GPU; set "none", or train a ViT')
    loss = find_loss(config)
    model = CLIP(loss.dimensions(dimensions))
    if not model.logit_scale.is_meta:
        if config.init is not None:
            load_towers(model, config.init, image_only=config.init_towers == "image")
        for hook in used_step_hooks(config):
            hook.initialize(model, config)
    lock_layers(model, config)
    if config.grad_cache and any(isinstance(m, _BatchNorm) and m.weight.requires_grad for m in model.modules()):
        raise ConfigError(
            "grad_cache: batch normalisation would see a part of the batch at a time, which changes the gradient; "
            "remove it, or train a ViT"
        )
    if not loss.has_bias and model.logit_bias is not None:
        model.logit_bias.requires_grad_(False)  # the loss does not depend on it
    model.set_grad_checkpointing(config.grad_checkpointing)
    return model


def lock_layers(model: CLIP, config: TrainConfig) -> None:
    """Freeze the layers that the config locks. Source: Zhai et al. 2022 (LiT).

    Raises: ConfigError if a tower has fewer groups than are unlocked.
    """
    unlocked = {"image": config.unlocked_image_groups, "text": config.unlocked_text_groups}
    for (tower, count), groups in zip(unlocked.items(), group_layers(model), strict=True):
        if count > len(groups):
            raise ConfigError(
                f"unlocked_{tower}_groups is {count}: the {tower} tower has {len(groups)} groups of layers"
            )
        if config.lock_image if tower == "image" else config.lock_text:
            lock_groups(groups, count)
    model.image_locked = config.lock_image and not config.unlocked_image_groups
    model.text_locked = config.lock_text and not config.unlocked_text_groups
    model.train(model.training)


def count_kept_patches(config: TrainConfig, dimensions: ModelConfig) -> tuple[int | None, int | None]:
    """Return the number of patches that an image keeps before and in the last steps; None for all, without dropout."""
    vision = dimensions.vision_cfg
    if not config.patch_dropout or not isinstance(vision, VisionConfig) or vision.patch_size is None:
        return None, None
    count = (vision.image_size // vision.patch_size) ** 2
    return max(1, round(count * (1 - config.patch_dropout))), count


def draw_kept_patches(
    config: TrainConfig, dimensions: ModelConfig, seed: int, epoch: int, samples: np.ndarray, share_done: float
) -> Tensor | None:
    """Draw the patches (B, K) that each image keeps in a step, in ascending order; None without patch dropout.

    Args:
        seed, epoch, samples: all that the draw depends on; samples are the images' indices in the dataset, (B,).
        share_done: share of all steps up to and with this one; the last `unmasked_tail` of them see every patch.

    Source: Li et al. 2023 (FLIP), section 3.
    """
    kept, count = count_kept_patches(config, dimensions)
    if kept is None or count is None:
        return None
    if share_done > 1 - config.unmasked_tail:
        return torch.arange(count).repeat(len(samples), 1)
    order = np.argsort(draw_uniforms("patches", seed, epoch, samples, count), axis=1, kind="stable")
    return torch.from_numpy(np.sort(order[:, :kept], axis=1))
