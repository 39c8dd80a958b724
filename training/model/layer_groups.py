"""The layers of both towers in the order of their depth: those that are locked."""

from collections.abc import Sequence

from torch import nn

from training.model.clip import CLIP
from training.model.resnet import ModifiedResNet
from training.model.towers import BackboneTower, group_tower


def group_layers(model: CLIP) -> tuple[list[list[nn.Parameter]], list[list[nn.Parameter]]]:
    """Return the parameters of the image tower and of the text tower, in groups from the input on.

    A transformer has its embeddings, each block, the last one with the norm after it, and the projection. A ResNet has its
    stem, its four stages, and the attention pool. A tower of another network has that network's groups, and the projector.
    Source of a transformer's groups: open_clip's `lock` of either tower.
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
