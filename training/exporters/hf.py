"""Export to transformers: `CLIPModel.from_pretrained(OUTPUT)`, `CLIPProcessor.from_pretrained(OUTPUT)`.

Source of names and shapes: transformers, models/clip/modeling_clip.py and convert_clip_original_pytorch_to_hf.py.
"""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from training.exporters.tokenizer import export_tokenizer
from training.model.checkpoint import LoadedModel, write_atomically
from training.model.pretrained import save_state_dict
from training.model.tokenizer import ClipTokenizer
from training.model_config import ModelConfig, TextConfig, VisionConfig

BICUBIC = 3
"""PIL's number of the filter."""
TOWERS = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final": "text_model.final_layer_norm",
    "logit_scale": "logit_scale",
}
PROJECTIONS = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
"""Matrices that transformers stores transposed."""
BLOCKS = {"visual.transformer.resblocks.": "vision_model", "transformer.resblocks.": "text_model"}
IN_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}


def export_hf(loaded: LoadedModel, output: Path) -> None:
    """Write config.json, model.safetensors, and the files of the preprocessor and tokenizer."""
    config = loaded.config
    tensors: dict[str, Tensor] = {}
    for name, tensor in loaded.model.state_dict().items():
        tensors.update(rename_tensor(name, tensor))
    save_state_dict(tensors, output / "model.safetensors", metadata={"format": "pt"})
    _write_json(output / "config.json", _model_config(config, loaded))
    _write_json(output / "preprocessor_config.json", _preprocessor_config(loaded.preprocess.facts()))
    export_tokenizer(loaded.tokenizer, output)


def rename_tensor(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return one of our tensors by its names in transformers: the attention's input projection becomes three."""
    if name in PROJECTIONS:
        return {PROJECTIONS[name]: tensor.T}
    for prefix, tower in BLOCKS.items():
        if name.startswith(prefix):
            number, _, inner = name.removeprefix(prefix).partition(".")
            layer = f"{tower}.encoder.layers.{number}"
            if inner.startswith("attn.in_proj_"):
                kind = inner.removeprefix("attn.in_proj_")
                parts = zip("qkv", tensor.chunk(3), strict=True)
                return {f"{layer}.self_attn.{letter}_proj.{kind}": part for letter, part in parts}
            module, _, kind = inner.rpartition(".")
            return {f"{layer}.{IN_BLOCK[module]}.{kind}": tensor}
    if name in TOWERS:
        return {TOWERS[name]: tensor}
    module, _, kind = name.rpartition(".")
    return {f"{TOWERS[module]}.{kind}": tensor}


def _model_config(config: ModelConfig, loaded: LoadedModel) -> dict[str, Any]:
    vision, text, tokenizer = config.vision_cfg, config.text_cfg, loaded.tokenizer
    assert isinstance(vision, VisionConfig)
    assert isinstance(text, TextConfig)
    shared = {
        "hidden_act": "quick_gelu" if config.quick_gelu else "gelu",
        "layer_norm_eps": 1e-5,
        "attention_dropout": 0.0,
        "projection_dim": config.embed_dim,
    }
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.embed_dim,
        "logit_scale_init_value": config.init_logit_scale,
        "dtype": "float32",
        "text_config": {
            **shared,
            "model_type": "clip_text_model",
            "vocab_size": text.vocab_size,
            "hidden_size": text.width,
            "intermediate_size": 4 * text.width,
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "max_position_embeddings": text.context_length,
            "bos_token_id": tokenizer.start_id,
            "eos_token_id": tokenizer.end_id,
            "pad_token_id": tokenizer.end_id if isinstance(tokenizer, ClipTokenizer) else tokenizer.pad_id,
        },
        "vision_config": {
            **shared,
            "model_type": "clip_vision_model",
            "hidden_size": vision.width,
            "intermediate_size": 4 * vision.width,
            "num_hidden_layers": vision.layers,
            "num_attention_heads": vision.width // vision.head_width,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
        },
    }


def _preprocessor_config(facts: dict[str, object]) -> dict[str, Any]:
    side = facts["image_size"]
    return {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "CLIPProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": facts["mean"],
        "image_std": facts["std"],
    }


def _write_json(path: Path, value: dict[str, object]) -> None:
    write_atomically(path, json.dumps(value, indent=2) + "\n")
