"""Export to open_clip: `open_clip.create_model_and_transforms("local-dir:OUTPUT")`.

Towers of other networks become open_clip's own: an image tower of timm, and a text tower of transformers, which open_clip
loads by these packages. Source of names: open_clip, factory.py, timm_model.py and hf_model.py; transformers,
models/bert/modeling_bert.py.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.exporters.tokenizer import export_tokenizer
from training.model.checkpoint import LoadedModel, write_atomically
from training.model.pretrained import OWN_VOCABULARY, save_state_dict
from training.model.tokenizer import ClipTokenizer
from training.model_config import BackboneConfig, BertConfig, ModelConfig

BERT = {
    "token_embedding": "embeddings.word_embeddings",
    "norm": "embeddings.LayerNorm",
    "out": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "norm2": "output.LayerNorm",
}
"""Names in our BERT, and in transformers'."""
OWN_TEXT = re.compile(r"^(transformer\.|token_embedding\.|positional_embedding$|ln_final\.|text_projection$)")
"""Names of CLIP's own text tower, which has a prefix beside an image tower of timm."""


def export_open_clip(loaded: LoadedModel, output: Path, final: Path) -> None:
    """Write the configuration, the weights, and a vocabulary other than CLIP's, which open_clip reads by transformers.

    Args:
        final: folder where the files will lie; open_clip finds the config of a text tower of transformers there.
    """
    config = loaded.config
    model_cfg: dict[str, Any] = config.model_dump(mode="json")
    if config.init_logit_bias is None:
        del model_cfg["init_logit_bias"]
    if isinstance(config.vision_cfg, BackboneConfig):
        model_cfg |= {"vision_cfg": _vision_config(config.vision_cfg), "custom_text": True}
    if isinstance(config.text_cfg, BertConfig):
        model_cfg |= {"text_cfg": _text_config(config.text_cfg, final), "custom_text": True}
        write_atomically(output / "config.json", json.dumps(_bert_config(config.text_cfg), indent=2) + "\n")
    if not isinstance(loaded.tokenizer, ClipTokenizer):
        model_cfg["text_cfg"]["hf_tokenizer_name"] = OWN_VOCABULARY
        export_tokenizer(loaded.tokenizer, output)
    facts = loaded.preprocess.facts()
    preprocess = {name: facts[name] for name in ("mean", "std", "interpolation", "resize_mode", "fill_color")}
    if isinstance(config.vision_cfg, BackboneConfig):
        preprocess |= {"mean": config.vision_cfg.mean, "std": config.vision_cfg.std}
    card = {"model_cfg": model_cfg, "preprocess_cfg": {"size": facts["image_size"], "mode": "RGB", **preprocess}}
    save_state_dict(rename_towers(loaded.model.state_dict(), config), output / "open_clip_model.safetensors")
    write_atomically(output / "open_clip_config.json", json.dumps(card, indent=2) + "\n")


def _vision_config(vision: BackboneConfig) -> dict[str, Any]:
    return {
        "image_size": vision.image_size,
        "timm_model_name": vision.architecture,
        "timm_model_pretrained": False,
        "timm_pool": "token" if vision.is_transformer else "avg",
        "timm_proj": "linear",
        "timm_proj_bias": True,
    }


def _text_config(text: BertConfig, folder: Path) -> dict[str, Any]:
    return {
        "context_length": text.context_length,
        "hf_model_name": str(folder.absolute()),
        "hf_model_pretrained": False,
        "hf_proj_type": None,
        "hf_pooler_type": "mean_pooler" if text.pooling == "mean" else "cls_last_hidden_state_pooler",
    }


def _bert_config(text: BertConfig) -> dict[str, Any]:
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": text.width,
        "intermediate_size": text.mlp_width,
        "num_hidden_layers": text.layers,
        "num_attention_heads": text.heads,
        "max_position_embeddings": text.context_length,
        "vocab_size": text.vocab_size,
        "type_vocab_size": 1,
        "layer_norm_eps": text.norm_eps,
        "pad_token_id": 0,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


def rename_towers(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Return the weights by open_clip's names: those of pretrained towers have a prefix, and BERT's are transformers'."""
    if not (isinstance(config.vision_cfg, BackboneConfig) or isinstance(config.text_cfg, BertConfig)):
        return dict(tensors)
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith("visual.encoder."):
            found[f"visual.trunk.{name.removeprefix('visual.encoder.')}"] = tensor
        elif name.startswith("visual.projector.layers.0."):
            found[f"visual.head.proj.{name.rpartition('.')[2]}"] = tensor
        elif name.startswith("text.encoder."):
            found |= _rename_bert(name.removeprefix("text.encoder."), tensor)
        elif name not in ("visual.gain", "visual.shift"):
            found[f"text.{name}" if OWN_TEXT.match(name) else name] = tensor
    if isinstance(config.text_cfg, BertConfig):
        types = torch.zeros(1, config.text_cfg.width)  # ours are added to the positions
        found["text.transformer.embeddings.token_type_embeddings.weight"] = types
    return found


def _rename_bert(name: str, tensor: Tensor) -> dict[str, Tensor]:
    if name == "positional_embedding":
        return {"text.transformer.embeddings.position_embeddings.weight": tensor}
    module, _, kind = name.rpartition(".")
    if not module.startswith("blocks."):
        return {f"text.transformer.{BERT[module]}.{kind}": tensor}
    _, number, part = module.split(".")
    layer = f"text.transformer.encoder.layer.{number}"
    if part != "qkv":
        return {f"{layer}.{BERT[part]}.{kind}": tensor}
    parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
    return {f"{layer}.attention.self.{one}.{kind}": rows for one, rows in parts}
