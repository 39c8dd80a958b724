"""How a model lies on the ranks: whole on each of them, or divided."""

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from training import distributed
from training.config import TrainConfig
from training.hooks import used_hooks
from training.model.clip import CLIP, Outputs, compile_towers
from training.model.packing import pack_texts
from training.model_config import TextConfig
from training.sharding import shard_model
from training.towers.padded_texts import PaddedTexts, pad_chunks


def place_model(model: CLIP, device: torch.device, config: TrainConfig) -> nn.Module:
    """Move a model, or this rank's part of it, to its device; all ranks together.

    Returns: the module through which a step passes: the model, or DistributedDataParallel around it.

    Raises: ConfigError if the device or the model cannot compute as a hook asks for.
    """
    for hook in used_hooks(config):
        hook.convert(model, device, config)
    is_sharded = config.sharding != "none" and distributed.world_size() > 1
    if config.compile:
        compile_towers(model, by_block=is_sharded)
    if is_sharded:
        shard_model(model, device, config.sharding, bf16=config.precision == "bf16")
        return model
    model.to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    forward = distributed.parallelize(model, device, static_graph=config.grad_cache is None)
    if isinstance(forward, DistributedDataParallel):
        _order_buckets(forward, model, device)
    return forward


def _order_buckets(forward: DistributedDataParallel, model: CLIP, device: torch.device) -> None:
    """Pass a batch of two empty pairs through the model twice, without a trace in weights, gradients or statistics.

    After the first backward pass, with a static graph the second, DistributedDataParallel puts the gradients into
    buckets in the order in which they were ready. Where a gradient lies in its bucket decides the order in which three
    ranks or more add it up, so the first step of a resumed job would have other last bits than the same step of an
    undisturbed one.
    """
    vision, text = model.config.vision_cfg, model.config.text_cfg
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    images_B3SS = torch.zeros(2, 3, vision.image_size, vision.image_size, device=device)
    ids_BL = torch.tensor([[0, text.vocab_size - 1]] * 2)
    if isinstance(text, TextConfig):
        texts = pack_texts(ids_BL).to(device)
    else:
        texts = PaddedTexts(*(tensor.to(device) for tensor in pad_chunks(ids_BL, None)[0]))
    with torch.compiler.set_stance("force_eager"):
        for _ in range(2):
            outputs = Outputs(*forward(images_B3SS, texts))
            torch.stack([o.sum() for o in outputs if o is not None and o.requires_grad]).sum().backward()
    model.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(statistics[name])
