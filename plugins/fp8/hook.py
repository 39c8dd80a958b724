"""Matrix products of transformer blocks in fp8, by torchao."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from dataops import plugins
from dataops.config import FrozenModel
from dataops.errors import ConfigError
from training.step_hooks import StepHook

if TYPE_CHECKING:
    import torch

    from training.config import TrainConfig
    from training.model.clip import CLIP

CAPABILITY = (8, 9)
"""Lowest compute capability of a card with fp8: Ada and Hopper. Source: CUDA C++ Programming Guide, table 21."""
MULTIPLE = 16
"""Rows and columns of a matrix in fp8 are multiples of it. Source: cuBLAS, "Tensor Core Usage"."""


class Fp8Config(FrozenModel):
    """Settings of fp8."""

    fp8: bool = False
    """Compute the matrix products of transformer blocks in fp8, by torchao, on cards from compute capability 8.9 on (Ada,
    Hopper); a CPU emulates it, slowly. All else is as `precision` says."""


class _Fp8(StepHook):
    config = Fp8Config

    def problems(self, config: "TrainConfig") -> list[str]:
        if find_spec("torchao") is None:
            return ["fp8: the package torchao is not installed: pip install 'pairmill[fp8]'"]
        return []

    def convert(self, model: "CLIP", device: "torch.device", config: "TrainConfig") -> None:
        """Let the transformer blocks compute in fp8; a CPU, which has none, emulates it."""
        import torch

        from training.model.transformer import Block

        plugins.require(["torchao"], "fp8", "train.fp8")
        if device.type == "cuda" and (found := torch.cuda.get_device_capability(device)) < CAPABILITY:
            card, versions = torch.cuda.get_device_name(device), [".".join(map(str, v)) for v in (found, CAPABILITY)]
            raise ConfigError(
                f"fp8: {card} has compute capability {versions[0]}, and fp8 needs {versions[1]}: set train.fp8 = false"
            )
        blocks = [module for module in model.modules() if isinstance(module, Block)]
        if odd := sorted({w for block in blocks if (w := block.attn.out_proj.in_features) % MULTIPLE}):
            raise ConfigError(f"fp8: a transformer has width {odd[0]}; fp8 needs a multiple of {MULTIPLE}")
        from plugins.fp8.blocks import convert_blocks

        convert_blocks(model, emulate=device.type != "cuda")


FP8 = _Fp8()
