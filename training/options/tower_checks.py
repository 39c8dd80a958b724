"""Contradictions between `[train.text_init]`, `[train.image_init]` and other keys of `[train]`."""

from typing import Any


def check_towers(config: Any) -> None:
    """Raise a ValueError for the first contradiction; `config` is a TrainConfig."""
    given = [name for name in ("text_init", "image_init") if getattr(config, name) is not None]
    if not given:
        return
    if config.text_init is not None and config.vocabulary != "captions":
        raise ValueError("vocabulary: text_init brings its own; remove vocabulary")
    if config.image_init is not None and config.init is not None:
        raise ValueError("init: both init and image_init state the image tower's weights; remove one of them")
    if config.text_init is not None and config.init is not None and config.init_towers != "image":
        raise ValueError('init: both init and text_init state the text tower\'s weights; set init_towers = "image"')
    if config.sharding != "none":
        raise ValueError(f'sharding: a model with {" and ".join(given)} is not sharded; set "none"')
    for phase in config.phase:
        if (phase.image_size and config.image_init) or (phase.context_length and config.text_init):
            raise ValueError(
                "phase: pretrained towers have one image_size and one context_length; set batch_size alone"
            )
    if config.patch_dropout and config.image_init is not None:
        raise ValueError("patch_dropout: a backbone of image_init takes all patches; set 0")


def find_uncached_reason(config: Any, tower: str) -> str | None:
    """Return why the features of a tower are computed at each step; None if they are computed once.

    Args:
        config: a TrainConfig.
        tower: text or image.
    """
    init = config.text_init if tower == "text" else config.image_init
    if init is None or not init.frozen:
        return "it is trained"
    if not init.cache:
        return "cache is false"
    changing = {"text": ("word_dropout",), "image": ("augment", "crop_area")}[tower]
    for name in changing:
        if getattr(config, name) != type(config).model_fields[name].default:
            return f"{name} changes its inputs"
    return "the shards arrive while training runs" if tower == "image" and config.shard_cache_bytes else None
