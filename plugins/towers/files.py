"""The files of a pretrained tower, in an installed package or at a path, who made them, and the dimensions that they state.

A package is found by its metadata, and none of its code is run. No torch here.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from dataops.digest import file_sha256, files_sha256
from dataops.errors import ConfigError
from dataops.regular_files import check_regular, read_text
from plugins.towers.config import ImageInit, PretrainedConfig, TextInit
from training.backbones import find_backbone
from training.model_config import (
    BackboneConfig,
    BertConfig,
    DecoderConfig,
    ModelConfig,
    PretrainedTextConfig,
    ProjectedConfig,
    WordVectorsConfig,
)

WEIGHTS = {
    "words": (".safetensors",),
    "bert": (".safetensors", ".bin"),
    "decoder": (".safetensors", ".index.json"),
    "image": (".safetensors", ".pth", ".pt", ".bin"),
}
"""Suffixes of the weights of each kind."""
CONFIG, POOLING = "config.json", "1_Pooling/config.json"
INDEX = ".safetensors.index.json"
"""End of the name of the file that lists the weights' files where there are several."""


@dataclass(frozen=True)
class TowerFiles:
    """The files that decide what a pretrained tower computes, and their owner."""

    weights: Path
    """The one file of the weights, or the index of several."""
    tokenizer: Path | None
    """None for an image tower."""
    name: str
    """Name of the package, or of the file or folder."""
    version: str
    """Version of the package; empty for a path."""
    license: str

    @property
    def config(self) -> Path:
        """Path of the config.json beside the weights, which BERT and decoders have."""
        return self.weights.with_name(CONFIG)

    @property
    def pooling(self) -> Path:
        """Path of the config of the pooling, which a sentence encoder may have."""
        return self.weights.parent / POOLING

    def list_files(self) -> list[Path]:
        """Return all files that decide what the tower computes."""
        beside = (self.config, self.pooling) if self.tokenizer is not None else ()
        files = [self.weights, *([self.tokenizer] if self.tokenizer else []), *(p for p in beside if p.is_file())]
        return [*files, *(self._list_parts() if self.weights.name.endswith(INDEX) else ())]

    def _list_parts(self) -> list[Path]:
        try:
            names = sorted({str(name) for name in json.loads(read_text(self.weights))["weight_map"].values()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(f"train.text_init: {self.weights} lists no files of weights ({error})") from error
        paths = [self.weights.with_name(Path(name).name) for name in names]
        wrong = [name for name, path in zip(names, paths, strict=True) if name != path.name or not path.is_file()]
        if wrong:
            raise ConfigError(f"train.text_init: {self.weights} names {wrong[0]!r}, which is no file beside it")
        return paths

    def digest(self) -> str:
        """Return the sha256 over the names and digests of these files."""
        return files_sha256(self.list_files())

    def describe(self, tower: str) -> dict[str, Any]:
        """Return whose weights they are, for the model card, with the file's name and sha256."""
        return {
            "tower": tower,
            "name": self.name,
            "version": self.version,
            "license": self.license,
            "file": self.weights.name,
            "sha256": self.digest() if self.weights.name.endswith(INDEX) else file_sha256(self.weights),
        }


def find_files(init: TextInit | ImageInit) -> TowerFiles:
    """Find the files that a table names.

    Raises: ConfigError if there are none, or several of a kind; names the key to set.
    """
    table = "train.text_init" if isinstance(init, TextInit) else "train.image_init"
    kind = init.kind if isinstance(init, TextInit) else "image"
    try:
        if init.package is not None:
            distribution = metadata.distribution(init.package)
            files = [Path(str(distribution.locate_file(file))) for file in distribution.files or ()]
            name, version = init.package, distribution.version
            license_ = init.license or find_license(distribution.metadata)
        else:
            root = Path(str(init.path))
            files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
            if root.is_file():  # its tokenizer lies beside it
                files += [path for path in sorted(root.parent.iterdir()) if path.suffix in (".json", ".txt")]
            name, version, license_ = root.name, "", init.license
    except metadata.PackageNotFoundError as error:
        raise ConfigError(f"{table}.package: {init.package} is not installed: pip install {init.package}") from error
    except OSError as error:
        raise ConfigError(f"{table}.path: {init.path} cannot be read ({error.strerror})") from error
    if not license_:
        raise ConfigError(f"{table}.license: the metadata of {name} states none; set the licence of its weights")
    if kind == "decoder" and any(path.name.endswith(INDEX) for path in files):
        files = [path for path in files if path.suffix != ".safetensors"]
    weights = _choose(files, WEIGHTS[kind], init.file, f"{table}.file", f"weights in {name}")
    tokenizer = None
    if isinstance(init, TextInit):
        suffixes = (".json", ".txt") if kind == "words" else (".json",)
        named = [path for path in files if "tokenizer" in path.name and path.name != "tokenizer_config.json"]
        words = [path for path in files if path.suffix == ".txt" and path.parent == weights.parent]
        candidates = files if init.tokenizer else named or words
        tokenizer = _choose(
            candidates, suffixes, init.tokenizer, f"{table}.tokenizer", f"tokenizer.json or list of words in {name}"
        )
    found = TowerFiles(weights, tokenizer, name, version, license_)
    if kind in ("bert", "decoder") and not found.config.is_file():
        raise ConfigError(f"{table}: no {CONFIG} lies beside {weights.name} in {name}")
    return found


def _choose(files: list[Path], suffixes: tuple[str, ...], wanted: str | None, key: str, what: str) -> Path:
    found = [path for path in files if path.name.endswith(suffixes)]
    if wanted is not None:
        found = [path for path in files if path.as_posix().endswith(f"/{wanted}") or path.name == wanted]
    found = [path for path in found if path.is_file()]
    if not found:
        raise ConfigError(f"{key}: found no {what}" + (f" named {wanted}" if wanted else f" ({', '.join(suffixes)})"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:5])
        raise ConfigError(f"{key}: there are {len(found)} files that may be the {what}: {names}; name one")
    return found[0]


def find_license(facts: Any) -> str:
    """Return the licence that a package's metadata states: its SPDX expression, a classifier, or a short text; or ""."""
    if expression := facts.get("License-Expression"):
        return str(expression)
    classified = [
        str(c).rpartition(" :: ")[2] for c in facts.get_all("Classifier") or () if str(c).startswith("License ::")
    ]
    if classified:
        return ", ".join(classified)
    text = str(facts.get("License") or "").strip()
    return "" if text.upper() in ("", "UNKNOWN", "NONE") else text.partition("\n")[0][:100]


@contextmanager
def _explaining(what: str) -> Iterator[None]:
    """Name the table or file in what is raised for facts that no tower can have. Raises: ConfigError."""
    try:
        yield
    except ValidationError as error:
        problem = error.errors()[0]
        parts = (what, *map(str, problem["loc"]), problem["msg"].removeprefix("Value error, "))
        raise ConfigError(": ".join(parts)) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{what}: it cannot be read, or is of another kind ({error})") from None


def replace_tower(dimensions: ModelConfig, name: str, tower: ProjectedConfig) -> ModelConfig:
    """Return the dimensions of a model with another tower, whose feature is the shared space if it has no projector.

    Args:
        name: vision_cfg or text_cfg.

    Raises: ConfigError if the widths do not fit.
    """
    embed_dim = dimensions.embed_dim if tower.projector_layers else tower.feature_width
    with _explaining("train"):
        return ModelConfig.model_validate({**dict(dimensions), name: tower, "embed_dim": embed_dim})


def image_dimensions(init: ImageInit, image_size: int | None) -> BackboneConfig:
    """Return the dimensions of an image tower.

    Args:
        image_size: side of the input, in pixels; None: that of the backbone.

    Raises: ConfigError if the patches of the backbone do not divide it.
    """
    found = find_backbone(init.architecture)
    with _explaining("train.image_init"):
        return BackboneConfig(
            kind="backbone",
            architecture=init.architecture,
            image_size=image_size or found.image_size,
            mean=init.mean or found.mean,
            std=init.std or found.std,
            stages=init.stages,
            grid=init.grid,
            **_projector_of(init),
        )


def _projector_of(init: PretrainedConfig) -> dict[str, Any]:
    return {name: getattr(init, name) for name in ("projector_layers", "projector_norm", "projector_width")}


def text_dimensions(init: TextInit, context_length: int) -> PretrainedTextConfig:
    """Return the dimensions of a text tower. Raises: ConfigError if its files are missing, or are of another kind."""
    files = find_files(init)
    if init.kind == "words":
        rows, width = read_matrix_shape(files.weights)
        fields = {"context_length": context_length, "vocab_size": rows + 1, "width": width}
        return WordVectorsConfig(kind="words", **fields, **_projector_of(init))
    with _explaining(f"train.text_init: {files.config}"):
        facts = json.loads(read_text(files.config))
        if init.kind == "decoder":
            fields = _read_decoder(facts, context_length) | {"pooling": init.pooling or "last"}
            return DecoderConfig.model_validate({"kind": "decoder", **fields, **_projector_of(init)})
        pooling = json.loads(read_text(files.pooling)) if files.pooling.is_file() else {}
        fields = _read_bert(facts, context_length) | {"pooling": _read_pooling(pooling)}
        return BertConfig.model_validate({"kind": "bert", **fields, **_projector_of(init)})


def _read_decoder(facts: Any, context_length: int) -> dict[str, Any]:
    """Return the dimensions of a language model. Raises: ValueError if it is of another kind."""
    for name in ("is_encoder_decoder", "quantization_config"):
        if facts.get(name):
            raise ValueError(f"{name} is {str(facts[name])[:80]}; only a plain decoder is supported")
    if lacking := {"model_type", "hidden_size", "vocab_size"} - set(facts):
        raise ValueError(f"it states no {' or '.join(sorted(lacking))}")
    return {
        "context_length": min(context_length, facts.get("max_position_embeddings", context_length)),
        "vocab_size": facts["vocab_size"] + 1,
        "width": facts["hidden_size"],
        "network_config": {
            name: value for name, value in facts.items() if name not in ("auto_map", "architectures", "dtype")
        },
    }


def _read_bert(facts: Any, context_length: int) -> dict[str, Any]:
    """Return the dimensions of a BERT. Raises: ValueError if it is of another kind."""
    wanted = {"model_type": "bert", "hidden_act": "gelu", "pad_token_id": 0, "position_embedding_type": "absolute"}
    for name, value in wanted.items():
        if facts.get(name, value if name != "model_type" else None) != value:
            raise ValueError(f"{name} is {facts.get(name)!r}; only {value!r} is supported")
    return {
        "context_length": min(context_length, facts["max_position_embeddings"]),
        "vocab_size": facts["vocab_size"],
        "width": facts["hidden_size"],
        "heads": facts["num_attention_heads"],
        "layers": facts["num_hidden_layers"],
        "mlp_width": facts["intermediate_size"],
        "norm_eps": facts.get("layer_norm_eps", 1e-12),
    }


def _read_pooling(facts: Any) -> str:
    """Return the one pooling that a sentence encoder uses. Raises: ValueError if it is of another kind."""
    known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first"}
    modes = [mode for mode, is_on in facts.items() if mode.startswith("pooling_mode_") and is_on is True]
    if len(modes) > 1 or any(mode not in known for mode in modes):
        raise ValueError(f"{POOLING}: {', '.join(modes)}; only the mean or the first token is supported")
    return known[modes[0]] if modes else "mean"


def read_matrix_shape(path: Path) -> tuple[int, int]:
    """Return rows and columns of the one matrix in a safetensors file, of which only the header is read.

    Raises: ConfigError if there is none, or several.
    """
    try:
        check_regular(path)
        with safe_open(path, "np") as file:
            shapes = [tuple(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118 — no mapping
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"train.text_init: {path} holds no matrix that can be read ({error})") from error
    matrices = [shape for shape in shapes if len(shape) == 2]
    if len(matrices) != 1:
        raise ConfigError(
            f"train.text_init: {path} holds {len(matrices)} matrices; save one, with a vector in each row"
        )
    return matrices[0][0], matrices[0][1]
