"""A decoder language model, read at the last token of a text or as the mean of its tokens.

The network is transformers', built from the config.json that lies with the weights; no code of the weights is run. A frozen
language model with a small projector is the text tower of ShareLock (openreview.net/forum?id=wqBHJNqeQJ).

Legend: B batch, L tokens, W width.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dataops import plugins
from dataops.errors import ConfigError
from training.model.towers import Network
from training.model_config import DecoderConfig


class Decoder(Network):
    """Texts to features; token 0 is padding, and the language model has each id lowered by one."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        plugins.require(("transformers",), "decoders", "a text tower of kind decoder")
        from transformers import AutoConfig, AutoModel

        try:
            wanted = AutoConfig.for_model(**config.network_config)
            self.model: nn.Module = AutoModel.from_config(wanted, dtype=torch.float32, attn_implementation="sdpa")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"transformers builds no {config.network_config['model_type']}: {error}") from error
        self.pooling = config.pooling
        self.shift_W = nn.Parameter(torch.zeros(config.width))
        """Added to each feature, since the last norm of a language model has no bias."""

    def forward(self, ids_BL: Tensor) -> Tensor:
        """Return the features (B, W)."""
        positions_L = torch.arange(ids_BL.shape[1], device=ids_BL.device)
        is_real_BL = (ids_BL != 0) | (positions_L == 0)  # attention to no token at all is not defined
        x_BLW = self.model(
            input_ids=(ids_BL - 1).clamp(min=0), attention_mask=is_real_BL.long(), use_cache=False
        ).last_hidden_state
        if self.pooling == "last":
            rows_B = torch.arange(len(ids_BL), device=ids_BL.device)
            return x_BLW[rows_B, is_real_BL.sum(dim=1) - 1] + self.shift_W
        is_real_BL1 = is_real_BL.unsqueeze(2)
        return (x_BLW * is_real_BL1).sum(dim=1) / is_real_BL1.sum(dim=1) + self.shift_W

    def shift_outputs(self, shift_W: Tensor) -> None:
        """Add a vector to each feature."""
        self.shift_W += shift_W.to(self.shift_W.device)

    def groups(self) -> list[list[nn.Parameter]]:
        """Return the parameters in groups from the input on: the embeddings, each block, and what follows them."""
        blocks = max((m for m in self.model.modules() if isinstance(m, nn.ModuleList)), key=len)
        inner = {parameter for block in blocks for parameter in block.parameters()}
        embeddings = [*self.model.get_input_embeddings().parameters()]  # pyright: ignore[reportCallIssue]
        rest = [p for p in self.parameters() if p not in inner and all(p is not one for one in embeddings)]
        return [embeddings, *(list(block.parameters()) for block in blocks), rest]

    def load(self, folder: Path) -> None:
        """Read the weights of a folder, from safetensors files alone.

        Raises: ConfigError if they cannot be read, or some are missing.
        """
        from transformers import AutoModel
        from transformers.utils import logging as their_logging

        their_logging.set_verbosity_error()  # its report of unused weights, such as those of the last layer
        their_logging.disable_progress_bar()
        options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
        try:
            self.model, report = AutoModel.from_pretrained(
                folder,
                config=self.model.config,
                dtype=torch.float32,
                attn_implementation="sdpa",
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **options,
            )
        except Exception as error:  # a hostile file raises anything
            raise ConfigError(
                f"train.text_init: {folder} holds no weights that can be read safely ({error})"
            ) from error
        wrong = [f"{name} is missing" for name in sorted(report["missing_keys"])]
        wrong += [f"{name[0]} has another shape" for name in sorted(report["mismatched_keys"])]
        if wrong:
            more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise ConfigError(f"train.text_init: {folder}: the weights do not fit: {', '.join(wrong[:3])}{more}")


def build(config: DecoderConfig) -> Decoder:
    """Build the network, with random weights."""
    return Decoder(config)
