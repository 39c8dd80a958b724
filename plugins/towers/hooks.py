"""The hooks of `[train.image_init]`, `[train.text_init]` and `train.start`. No torch is imported here."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from dataops.snapshot import Input
from plugins.towers.config import ImageInit, StartConfig, TextInit
from plugins.towers.files import find_files, image_dimensions, replace_tower, text_dimensions
from training.hooks import used_hooks
from training.model_config import ModelConfig
from training.step_hooks import StepHook, used_step_hooks

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from training.config import TrainConfig
    from training.data.loader import Batch, Dataset
    from training.job import Job
    from training.model.clip import CLIP
    from training.model.tokenizer import Tokenizer


logger = logging.getLogger(__name__)


START_LOGIT_SCALE = 3.0
"""Log of the inverse temperature after least squares, in place of the model's own. On the demo's validation families, it
was better than 2.3, 2.7 and 3.7."""


class TowerHook(StepHook):
    """A hook that replaces a tower by a pretrained network with a projector on it."""

    tower: str
    """image or text."""

    def pretrained_towers(self, config: "TrainConfig") -> frozenset[str]:
        return frozenset({self.tower})

    def check(self, config: "TrainConfig") -> None:
        if config.sharding != "none":
            raise ValueError(f'sharding: a model with {self.table} is not sharded; set "none"')

    def external_inputs(self, config: "TrainConfig") -> list[Input]:
        files = find_files(self.settings(config))
        return [Input(stage=f"train.{self.table}", key=files.name, digest=files.digest())]

    def describe_weights(self, config: "TrainConfig") -> list[dict[str, Any]]:
        return [find_files(self.settings(config)).describe(self.tower)]

    def scale_rates(self, model: "CLIP", config: "TrainConfig") -> "dict[nn.Parameter, float]":
        tower: Any = model.visual if self.tower == "image" else model.text
        scale: float = self.settings(config).lr_scale
        return {} if scale == 1 else dict.fromkeys(tower.encoder.parameters(), scale)

    def find_uncached_reason(self, config: "TrainConfig") -> str | None:
        """Return why the features of the tower are computed at each step; None if they are computed once."""
        init = self.settings(config)
        if not init.frozen:
            return "it is trained"
        return "cache is false" if not init.cache else self._find_change(config)

    def is_cached(self, config: "TrainConfig") -> bool:
        """Return whether the features are computed once; rank 0 logs the reason if those of a frozen tower are not."""
        from training import distributed

        reason = self.find_uncached_reason(config)
        if reason is not None and reason != "it is trained" and distributed.rank() == 0:
            logger.info("the features of the frozen %s tower are computed at each step: %s", self.tower, reason)
        return reason is None

    def _find_change(self, config: "TrainConfig") -> str | None:
        raise NotImplementedError

    def require_cache(self, config: "TrainConfig", keys: str) -> None:
        """Raise a ValueError if the features that keys are about are not computed once."""
        reason = self.find_uncached_reason(config)
        if reason is not None:
            raise ValueError(
                f"{keys}: it needs features of the {self.tower} tower that are computed once, and {reason}; "
                f"set {self.table}.frozen and cache to true, and remove what changes its inputs"
            )


class _ImageInit(TowerHook):
    order = 99
    config, table, tower, version = ImageInit, "image_init", "image", 3

    def check(self, config: "TrainConfig") -> None:
        if config.init is not None:
            raise ValueError("init: both init and image_init state the image tower's weights; remove one of them")
        super().check(config)
        if config.patch_dropout:
            raise ValueError("patch_dropout: a backbone of image_init takes all patches; set 0")
        for key in ("copies", "dropout"):
            if getattr(self.settings(config), key):
                self.require_cache(config, f"image_init.{key}")

    def dimensions(self, config: "TrainConfig", dimensions: ModelConfig) -> ModelConfig:
        return replace_tower(dimensions, "vision_cfg", image_dimensions(self.settings(config), config.image_size))

    def initialize(self, model: "CLIP", config: "TrainConfig") -> None:
        from plugins.towers.weights import load_image_tower

        load_image_tower(model, self.settings(config))

    def compute_features(
        self, job: "Job", config: "TrainConfig", model: "CLIP", tokenizer: "Tokenizer", dataset: "Dataset"
    ) -> None:
        from plugins.towers.frozen import use_image_features

        if self.is_cached(config):
            use_image_features(job, config, self.settings(config), model, dataset)

    def make_inputs(self, batch: "Batch", config: "TrainConfig", seed: int) -> "dict[str, Tensor]":
        dropout: float = self.settings(config).dropout
        if not dropout:
            return {}
        import torch

        from training.data.keyed_random import draw_uniforms

        width = batch.pixels_BSS3.shape[1]
        kept = draw_uniforms("features", seed, batch.epoch, batch.samples, width) >= dropout
        return {"kept_features_BW": torch.from_numpy(kept)}

    def change_features(self, features_BW: "Tensor", inputs: "Mapping[str, Tensor]", config: "TrainConfig") -> "Tensor":
        dropout: float = self.settings(config).dropout
        return features_BW * inputs["kept_features_BW"] / (1 - dropout) if dropout else features_BW

    def _find_change(self, config: "TrainConfig") -> str | None:
        copies = self.settings(config).copies
        changing = [hook.table for hook in used_step_hooks(config) if hook.changes_images and not copies]
        changing += ["crop_area"] if config.crop_area is not None else []
        if changing:
            return f"{changing[0]} changes its inputs"
        return "the shards arrive while training runs" if config.shard_cache_bytes else None


class _TextInit(TowerHook):
    order = 98
    config, table, tower, version = TextInit, "text_init", "text", 3

    def check(self, config: "TrainConfig") -> None:
        if config.vocabulary != "captions":
            raise ValueError("vocabulary: text_init brings its own; remove vocabulary")
        if config.init is not None and config.init_towers != "image":
            raise ValueError('init: both init and text_init state the text tower\'s weights; set init_towers = "image"')
        super().check(config)
        if self.settings(config).centred:
            self.require_cache(config, "text_init.centred")

    def dimensions(self, config: "TrainConfig", dimensions: ModelConfig) -> ModelConfig:
        context_length = dimensions.text_cfg.context_length
        return replace_tower(dimensions, "text_cfg", text_dimensions(self.settings(config), context_length))

    def load_tokenizer(self, config: "TrainConfig", dimensions: ModelConfig) -> "Tokenizer":
        from training.model.pretrained_tokenizer import load_tower_tokenizer

        path = find_files(self.settings(config)).tokenizer
        assert path is not None
        return load_tower_tokenizer(path, dimensions.text_cfg)

    def initialize(self, model: "CLIP", config: "TrainConfig") -> None:
        from plugins.towers.weights import load_text_tower

        load_text_tower(model, self.settings(config))

    def compute_features(
        self, job: "Job", config: "TrainConfig", model: "CLIP", tokenizer: "Tokenizer", dataset: "Dataset"
    ) -> "Callable[[Sequence[str]], Tensor] | None":
        from plugins.towers.frozen import use_text_features

        if not self.is_cached(config):
            return None
        return use_text_features(job, config, self.settings(config), model, tokenizer, dataset)

    def _find_change(self, config: "TrainConfig") -> str | None:
        return "word_dropout changes its inputs" if config.word_dropout else None


IMAGE_INIT, TEXT_INIT = _ImageInit(), _TextInit()


class _Start(StepHook):
    config, version = StartConfig, 4

    def is_used(self, config: "TrainConfig") -> bool:
        return self.settings(config).start != "random"

    def check(self, config: "TrainConfig") -> None:
        for hook, layers in ((IMAGE_INIT, 1), (TEXT_INIT, 0)):
            if hook not in used_hooks(config):
                raise ValueError(f"start: least_squares needs two frozen towers; set {hook.table}")
            hook.require_cache(config, "start")
            if hook.settings(config).projector_layers != layers:
                raise ValueError(
                    f"start: least_squares maps images into the space of the texts; set {hook.table}."
                    f"projector_layers = {layers}"
                )

    def dimensions(self, config: "TrainConfig", dimensions: ModelConfig) -> ModelConfig:
        return dimensions.model_copy(update={"init_logit_scale": START_LOGIT_SCALE})

    def start(
        self,
        model: "CLIP",
        config: "TrainConfig",
        dataset: "Dataset",
        text_features: "Callable[[Sequence[str]], Tensor] | None",
    ) -> None:
        from plugins.towers.least_squares import start_from_least_squares

        assert text_features is not None
        start_from_least_squares(model, config, dataset, text_features, self.settings(config).start_ridge)

    def convert(self, model: "CLIP", device: "torch.device", config: "TrainConfig") -> None:
        from plugins.towers.least_squares import keep_start

        if config.keep == "last":
            keep_start(model)

    def watch_steps(
        self, job: "Job", config: "TrainConfig", steps: int, model: "CLIP"
    ) -> AbstractContextManager[Callable[[], object]]:
        from plugins.towers.least_squares import end_between

        return end_between(model)


START = _Start()
