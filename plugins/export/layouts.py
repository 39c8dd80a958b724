"""Export to open_clip: `open_clip.create_model_and_transforms("local-dir:OUTPUT")`.

Towers of other networks become open_clip's own: an image tower of timm, and a text tower of
transformers, which open_clip loads by these packages. Source of names: open_clip, factory.py,
timm_model.py and hf_model.py; transformers, models/bert/modeling_bert.py.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from training.model import clip_vocabulary
from training.model.checkpoint import LoadedModel, write_atomically
from training.model.pretrained import OWN_VOCABULARY
from training.model.pretrained_tokenizer import PretrainedTokenizer
from training.model.tokenizer import ClipTokenizer, Tokenizer
from training.model_config import BackboneConfig, BertConfig, ModelConfig, TextConfig, VisionConfig

# Vocabularies, as transformers reads them ------------------------------------------------------------------------------

OPENAI_NAMES = {clip_vocabulary.START: "<|startoftext|>", clip_vocabulary.END: "<|endoftext|>"}
"""OpenAI's names of the two tokens that open_clip renamed; transformers expects these."""


def export_tokenizer(tokenizer: Tokenizer, output: Path) -> None:
    """Write both files.

    CLIP's vocabulary gets the normaliser of OpenAI's own tokenizer.json, which lower-cases and
    joins spaces. It has neither ftfy nor entities, so captions that need those get other ids. It is
    padded with its end token, as OpenAI's is.
    """
    if isinstance(tokenizer, PretrainedTokenizer):
        write_atomically(output / "tokenizer.json", tokenizer.to_json())
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": tokenizer.context_length}
        config |= {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
        write_atomically(output / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")
        return
    content = json.loads(tokenizer.to_json())
    content["truncation"] = content["padding"] = None
    pad, start, end = tokenizer.special_tokens
    if isinstance(tokenizer, ClipTokenizer):
        start, end = (OPENAI_NAMES[token] for token in (start, end))
        pad = end
        _rename(content)
        spaces = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}
        content["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFC"}, spaces, {"type": "Lowercase"}]}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": tokenizer.context_length,
        "bos_token": start,
        "eos_token": end,
        "pad_token": pad,
        "clean_up_tokenization_spaces": False,
    }
    write_atomically(output / "tokenizer.json", json.dumps(content, ensure_ascii=False))
    write_atomically(output / "tokenizer_config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def _rename(content: dict[str, Any]) -> None:
    vocabulary = content["model"]["vocab"]
    for old, new in OPENAI_NAMES.items():
        vocabulary[new] = vocabulary.pop(old)
    for token in content["added_tokens"]:
        token["content"] = OPENAI_NAMES.get(token["content"], token["content"])
    post = content["post_processor"]
    post["special_tokens"] = {
        OPENAI_NAMES[name]: {**entry, "id": OPENAI_NAMES[name], "tokens": [OPENAI_NAMES[t] for t in entry["tokens"]]}
        for name, entry in post["special_tokens"].items()
    }
    for token in (*post["single"], *post["pair"]):
        if "SpecialToken" in token:
            token["SpecialToken"]["id"] = OPENAI_NAMES[token["SpecialToken"]["id"]]


# transformers: `CLIPModel.from_pretrained(OUTPUT)`, `CLIPProcessor.from_pretrained(OUTPUT)` ----------------------------
# Source of names and shapes: transformers, models/clip/modeling_clip.py and convert_clip_original_pytorch_to_hf.py.

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
        "timm_pool": "token" if vision.network == "vit" else "avg",
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


def save_state_dict(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors, each with memory of its own."""
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, path, metadata)
