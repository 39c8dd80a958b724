"""The dimensions of a model whose towers start from pretrained weights, as their files state them. No torch here."""

import json
from pathlib import Path

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from dataops.errors import ConfigError
from dataops.regular_files import check_regular, read_text
from training.backbones import find_backbone
from training.model_config import BackboneConfig, BertConfig, ModelConfig, ProjectedConfig, WordVectorsConfig
from training.options.image_init import ImageInit
from training.options.text_init import TextInit
from training.towers.files import TowerFiles, find_files


def assemble_dimensions(
    dimensions: ModelConfig, text_init: TextInit | None, image_init: ImageInit | None, image_size: int | None
) -> ModelConfig:
    """Return the dimensions of a model with the towers of two tables in place of its own.

    Args:
        image_size: side of the input, in pixels; None: that of the backbone.

    Raises: ConfigError if the files of a table are missing, or are of another kind.
    """
    towers: dict[str, ProjectedConfig] = {}
    if text_init is not None:
        towers["text_cfg"] = _text_dimensions(text_init, dimensions.text_cfg.context_length)
    if image_init is not None:
        towers["vision_cfg"] = _image_dimensions(image_init, image_size)
    widths = [tower.feature_width for tower in towers.values() if not tower.projector_layers]
    changes = {**towers, "embed_dim": widths[0] if widths else dimensions.embed_dim}
    try:
        return ModelConfig.model_validate({**dict(dimensions), **changes})
    except ValidationError as error:
        raise ConfigError(f"train: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error


def _image_dimensions(init: ImageInit, image_size: int | None) -> BackboneConfig:
    found = find_backbone(init.architecture)
    fields = {
        "kind": "backbone",
        "architecture": init.architecture,
        "image_size": image_size or found.image_size,
        "mean": init.mean or found.mean,
        "std": init.std or found.std,
        "projector_layers": init.projector_layers,
        "projector_width": init.projector_width,
    }
    try:
        return BackboneConfig.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(f"train.image_init: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error


def _text_dimensions(init: TextInit, context_length: int) -> BertConfig | WordVectorsConfig:
    files = find_files(init)
    projector = {"projector_layers": init.projector_layers, "projector_width": init.projector_width}
    if init.kind == "words":
        rows, width = read_matrix_shape(files.weights)
        fields = {
            "kind": "words",
            "context_length": context_length,
            "vocab_size": rows + 1,
            "width": width,
            **projector,
        }
        return WordVectorsConfig.model_validate(fields)
    return _bert_dimensions(files, context_length, projector)


def _bert_dimensions(files: TowerFiles, context_length: int, projector: dict[str, int]) -> BertConfig:
    try:
        facts = json.loads(read_text(files.config))
        pooling = json.loads(read_text(files.pooling)) if files.pooling.is_file() else {}
        wanted = {"model_type": "bert", "hidden_act": "gelu", "pad_token_id": 0, "position_embedding_type": "absolute"}
        for name, value in wanted.items():
            if facts.get(name, value if name != "model_type" else None) != value:
                raise ValueError(f"{name} is {facts.get(name)!r}; only {value!r} is supported")
        modes = [mode for mode, is_on in pooling.items() if mode.startswith("pooling_mode_") and is_on is True]
        known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first"}
        if len(modes) > 1 or any(mode not in known for mode in modes):
            raise ValueError(f"{files.pooling.name}: {', '.join(modes)}; only the mean or the first token is supported")
        return BertConfig.model_validate(
            {
                "kind": "bert",
                "context_length": min(context_length, facts["max_position_embeddings"]),
                "vocab_size": facts["vocab_size"],
                "width": facts["hidden_size"],
                "heads": facts["num_attention_heads"],
                "layers": facts["num_hidden_layers"],
                "mlp_width": facts["intermediate_size"],
                "norm_eps": facts.get("layer_norm_eps", 1e-12),
                "pooling": known[modes[0]] if modes else "mean",
                **projector,
            }
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, ValidationError):
            error = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(
            f"train.text_init: {files.config} is no config of a BERT that pairmill can read ({error})"
        ) from None


def read_matrix_shape(path: Path) -> tuple[int, int]:
    """Return rows and columns of the one matrix of numbers in a .safetensors, .npy or .npz file.

    Raises: ConfigError if there is none, or several.
    """
    try:
        check_regular(path)
        if path.suffix == ".safetensors":
            with safe_open(path, "np") as file:
                shapes = [tuple(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118 — no mapping
        else:
            shapes = [array.shape for array in load_arrays(path).values()]
    except (OSError, ValueError, EOFError, KeyError, SafetensorError) as error:
        raise ConfigError(f"train.text_init: {path} holds no matrix that can be read safely ({error})") from error
    matrices = [shape for shape in shapes if len(shape) == 2]
    if len(matrices) != 1:
        raise ConfigError(
            f"train.text_init: {path} holds {len(matrices)} matrices; save one, with a vector in each row"
        )
    return matrices[0][0], matrices[0][1]


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of numbers in a .npy or .npz file; no pickle is read.

    Raises: ValueError if one holds objects.
    """
    loaded = np.load(path, allow_pickle=False, mmap_mode="r" if path.suffix == ".npy" else None)
    if isinstance(loaded, np.ndarray):
        return {"": loaded}
    with loaded:
        return {name: loaded[name] for name in loaded.files}
