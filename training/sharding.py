"""How a model lies on the ranks: whole on each of them, or sharded by torch's FSDP2.

A sharded model keeps a part of the weights, gradients and moments of every matrix on each rank.
Gains, biases and the temperature stay whole on each rank, since they are small and a scalar has no
rows to divide. Their gradients are averaged in one exchange. With one process every function
returns its input.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from dataops.errors import ConfigError
from training import distributed
from training.config import Sharding, TrainConfig
from training.model.clip import CLIP, DTYPES, Outputs, compile_towers
from training.model.packing import pack_texts
from training.model.towers import PaddedTexts, pad_chunks
from training.model.transformer import Block
from training.model_config import TextConfig
from training.step_hooks import used_step_hooks


def place_model(model: CLIP, device: torch.device, config: TrainConfig) -> nn.Module:
    """Move a model, or this rank's part of it, to its device; all ranks together.

    Returns: the module through which a step passes: the model, or DistributedDataParallel around it.

    Raises: ConfigError if the device or the model cannot compute as a hook asks for.
    """
    for hook in used_step_hooks(config):
        hook.convert(model, device, config)
    is_sharded = config.sharding != "none" and distributed.world_size() > 1
    if config.compile:
        compile_towers(model, by_block=is_sharded)
    if is_sharded:
        shard_model(model, device, config.sharding, DTYPES.get(config.precision))
        return model
    model.to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    forward = distributed.parallelize(model, device, static_graph=config.grad_cache is None)
    if isinstance(forward, DistributedDataParallel):
        _order_buckets(forward, model, device)
    return forward


def _order_buckets(forward: DistributedDataParallel, model: CLIP, device: torch.device) -> None:
    """Pass a batch of two empty pairs through the model twice, without a trace in weights, gradients or statistics.

    After the first backward pass, with a static graph the second, DistributedDataParallel puts the
    gradients into buckets in the order in which they were ready. Where a gradient lies in its
    bucket decides the order in which three ranks or more add it up, so the first step of a resumed
    job would have other last bits than the same step of an undisturbed one.
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


@dataclass(frozen=True)
class Part:
    """The part of each sharded tensor that a rank keeps."""

    number: int
    """Its number in the order of the rows, from 0."""
    count: int
    """Number of parts."""
    is_first_copy: bool
    """False where another machine, of lower ranks, keeps the same part."""


WHOLE = Part(0, 1, is_first_copy=True)


def shard_model(model: CLIP, device: torch.device, sharding: Sharding, dtype: torch.dtype | None) -> None:
    """Keep a part of each matrix on this rank, in place; all ranks together.

    Each block is gathered before its forward and backward pass, and all other matrices with the
    whole model. Only rank 0 has all weights in memory, on the CPU: the others may have built theirs
    on the device `meta`, and each gets its part, one tensor at a time.

    Args:
        sharding: full: over all ranks. hybrid: over those of a machine, with a copy on each machine.
        dtype: in which the matrices of the blocks are gathered, to which autocast would round them; None: their own.
            Gradients are added up in fp32, and all else is as autocast has it.

    Raises: ConfigError if the machines of `hybrid` have unequal numbers of ranks.
    """
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    mesh = _make_mesh(device, sharding)
    weights = {name: tensor.detach() for name, tensor in _named_tensors(model)} if distributed.rank() == 0 else {}
    model.to("meta")
    whole = {parameter for parameter in model.parameters() if parameter.ndim < 2}
    policy = MixedPrecisionPolicy(*(dtype, torch.float32) if dtype else (), cast_forward_inputs=False)
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy, ignored_params=whole)
    fully_shard(model, mesh=mesh, ignored_params=whole)
    for module in (model, *blocks):
        assert isinstance(module, FSDPModule)
        module.set_force_sum_reduction_for_comms(True)  # gloo has no average
    model.to_empty(device=device)
    part = find_part(model)
    with torch.no_grad():
        for name, tensor in _named_tensors(model):  # processors of other kinds would draw other last bits than rank 0
            full = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
            if name in weights:
                full.copy_(weights.pop(name))
            dist.broadcast(full, 0)
            local_part(tensor).copy_(full[rows_of_part(len(full), part)] if is_sharded(tensor) else full)


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _make_mesh(device: torch.device, sharding: Sharding) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    ranks, of_machine = distributed.world_size(), distributed.local_world_size()
    counts = {count for (count,) in distributed.gather_integers([of_machine])}
    if sharding == "full" or of_machine == ranks:
        return init_device_mesh(device.type, (ranks,))
    if len(counts) > 1:
        raise ConfigError(
            f'sharding = "hybrid" needs as many ranks on each machine, and they have {sorted(counts)}: set "full"'
        )
    return init_device_mesh(device.type, (ranks // of_machine, of_machine), mesh_dim_names=("machine", "rank"))


def is_sharded(tensor: Tensor) -> bool:
    """Return whether this rank keeps a part of the tensor only."""
    return hasattr(tensor, "to_local")  # a DTensor, whose module costs 0.6 s to import


def local_part(tensor: Tensor) -> Tensor:
    """Return the rows that this rank keeps: the tensor itself, unless it is sharded."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # pyright: ignore[reportAttributeAccessIssue]


def find_part(model: nn.Module) -> Part:
    """Return which part of the sharded tensors this rank keeps."""
    mesh: Any = next((p.device_mesh for p in model.parameters() if is_sharded(p)), None)  # pyright: ignore[reportAttributeAccessIssue]
    if mesh is None:
        return Part(0, 1, is_first_copy=distributed.rank() == 0)
    copy = mesh.get_local_rank(0) if mesh.ndim == 2 else 0
    return Part(mesh.get_local_rank(mesh.ndim - 1), mesh.size(mesh.ndim - 1), is_first_copy=copy == 0)


def rows_of_part(rows: int, part: Part) -> slice:
    """Return the rows of a part, of equal size up to those at the end."""
    size = -(-rows // part.count)
    return slice(min(part.number * size, rows), min((part.number + 1) * size, rows))


def copy_whole(model: CLIP) -> CLIP:
    """Return a model with whole weights on each rank, which computes as the finished model does; all ranks together.

    It is the same one, unless it is sharded or a hook converted its modules.
    """
    if not model.is_converted and not _split(list(model.parameters()))[1]:
        return model
    with torch.device("meta"):
        whole = CLIP(model.config)
    weights = {
        name: tensor.full_tensor() if is_sharded(tensor) else tensor for name, tensor in model.state_dict().items()
    }
    whole.load_state_dict(weights, assign=True)
    return whole.requires_grad_(False)


def average_whole_gradients(model: nn.Module) -> None:
    """Average the gradients of the tensors that a sharded model keeps whole; all ranks together."""
    whole, parts = _split(list(model.parameters()))
    if not parts:
        return  # DistributedDataParallel averages them
    gradients = [parameter.grad for parameter in whole if parameter.grad is not None]
    sums = distributed.sum_over_ranks(torch.cat([gradient.flatten() for gradient in gradients]))
    sums.div_(distributed.world_size())
    for gradient, averaged in zip(gradients, sums.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(averaged.view_as(gradient))


def gradient_norm(model: nn.Module) -> Tensor:
    """Return the global norm of the gradients."""
    whole, parts = _split([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    norm = get_total_norm(whole)
    if not parts:
        return norm
    mesh: Any = parts[0].device_mesh  # pyright: ignore[reportAttributeAccessIssue]
    square = get_total_norm([local_part(gradient) for gradient in parts]).double().square()
    dist.all_reduce(square, group=mesh.get_group(mesh.ndim - 1))
    return (norm.double().square() + square).sqrt().float()


def clip_gradients(model: nn.Module, max_norm: float, norm: Tensor) -> None:
    """Scale the gradients down to a global norm."""
    for parameters in _split(list(model.parameters())):
        clip_grads_with_norm_(parameters, max_norm, norm)


def _split(tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the tensors that are whole, and those that are sharded."""
    return [t for t in tensors if not is_sharded(t)], [t for t in tensors if is_sharded(t)]
