"""The configs that training owns: the `[train]` table and the model's JSON. The orchestrator reads both: no torch here.

A registered model ships this file, so it finds configs/models/ by its own path. A model's JSON has open_clip's field
names, so that open_clip builds the same network from the same file.
"""

import json
import math
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from dataops.config import StageConfig, problems_of
from dataops.errors import ConfigError
from dataops.regular_files import read_text
from dataops.text.suggestions import did_you_mean
from training.rendezvous import explain_refusal, is_loopback

QUICK_GELU = "-quickgelu"
"""End of open_clip's names of models that have the activation of OpenAI's weights."""
MODELS = Path(__file__).resolve().parent.parent / "configs" / "models"
MIN_VOCAB_SIZE = 259
"""Tokens of a byte-level vocabulary before its first merge: pad, 256 bytes, start and end of text."""

Share = Annotated[float, Field(ge=0, le=1)]
Precision = Literal["auto", "fp32", "bf16"]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


def _has_one_slot(prompt: str) -> str:
    if prompt.count("{}") != 1:
        raise ValueError(f"a prompt must hold {{}}, where the caption goes, exactly once: {prompt!r}")
    return prompt


Prompt = Annotated[str, AfterValidator(_has_one_slot)]


def _in_order(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError(f"the lower end {ends[0]} is above the upper end {ends[1]}")
    return ends


Range = Annotated[tuple[Positive, Share], AfterValidator(_in_order)]


class FrozenModel(BaseModel):
    """A model that is immutable and rejects unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AugmentConfig(FrozenModel):
    """Random changes to each image, new in each epoch. The defaults are the paper's: a random square crop, no more.

    Each is a pure function of (seed, epoch, sample), whatever the number of workers or ranks. A strength of 0 is off.
    """

    zoom: tuple[Positive, Positive] = (1.0, 1.0)
    """Range of the content's magnification; over 1 crops, under 1 leaves a border."""
    aspect: NonNegative = 0.0
    """Maximum log of the factor between horizontal and vertical zoom."""
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Maximum rotation either way, in degrees."""
    shear: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Maximum shear either way, as a tangent."""
    translate: Share = 0.0
    """Maximum shift either way, as a share of the side."""
    flip: Share = 0.0
    """Probability of a mirror image. Text, flags and arrows change meaning in a mirror."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Maximum turn of the hue either way, in turns."""
    saturation: Share = 0.0
    """Saturation is multiplied by 1 +- this, at most."""
    brightness: Share = 0.0
    """Brightness is multiplied by 1 +- this, at most."""
    contrast: Share = 0.0
    """Contrast about middle grey is multiplied by 1 +- this, at most."""
    channel: Share = 0.0
    """Each of red, green and blue is multiplied by 1 +- this, at most."""
    grayscale: Share = 0.0
    """Probability of an image without colour."""
    erase_lines: Share = 0.0
    """Probability of a morphological closing, which removes dark lines thinner than its window."""
    line_width: Annotated[int, Field(ge=1, le=15)] = 2
    """Width of the widest dark line that `erase_lines` removes, in pixels of the decoded image."""
    blur: Share = 0.0
    """Probability of a 3 x 3 binomial blur."""
    cutout: Share = 0.0
    """Probability of a square filled with a random colour."""
    cutout_side: Share = 0.4
    """Maximum side of that square, as a share of the image's."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.zoom[0] > self.zoom[1]:
            raise ValueError(f"zoom: the lower end {self.zoom[0]} is above the upper end {self.zoom[1]}")
        return self


class TrainConfig(StageConfig):
    """The `[train]` table. The defaults of optimisation are the paper's for ViT (Radford et al. 2021, tables 18-19)."""

    execution_fields: ClassVar[frozenset[str]] = frozenset(
        {
            "workers",
            "cache_bytes",
            "shard_cache_bytes",
            "checkpoint_every",
            "keep_checkpoints",
            "log_every",
            "max_spike",
            "launch",
            "evaluate_every",
            "rdzv_endpoint",
            "allow_network",
            "max_restarts",
        }
    )
    """Fields that change how a run executes but no bit of its output; the snapshot key leaves them out."""
    placement_fields: ClassVar[frozenset[str]] = frozenset({"device", "threads", "nproc", "nnodes"})
    """Fields that change only the last bits of sums: a job resumes from a checkpoint made with other values."""

    model: str = "ViT-B-32"
    """A name in configs/models/, or the path of such a JSON file."""
    epochs: Annotated[int, Field(ge=1)] = 32
    """Passes over the dataset; each sample is seen once in each, or with its sampling_probability where it has one."""
    blur_faces: bool = False
    """Blur the faces that [curate.scores.faces] found (column `face_bboxes`) in each image as it is read.

    The images in the shards stay as they are. A sample in which no face detection ran is left out."""
    batch_size: Annotated[int, Field(ge=2)] = 1024
    """Maximum pairs per step over all ranks: an epoch is cut into the fewest such batches, equal to within one pair."""
    lr: Positive = 5e-4
    """Peak learning rate."""
    weight_decay: NonNegative = 0.2
    """Decoupled weight decay on matrices and kernels; gains, biases and logit_scale have none."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of Adam's first moment."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.98
    """Decay of Adam's second moment."""
    eps: Positive = 1e-6
    """Adam's epsilon."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of all steps in which the learning rate climbs from 0; a half cosine to 0 follows."""
    max_grad_norm: NonNegative = 0.0
    """Maximum global norm of the gradients, which are scaled down to it; 0: never."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each target spread evenly over the batch."""
    precision: Precision = "auto"
    """bf16: autocast of the two towers; weights, optimizer and loss stay in fp32. auto: bf16 on CUDA and on CPUs that
    compute in it, else fp32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda if torch sees it, else cpu."""
    launch: Literal["local", "work_pool", "ray"] = "local"
    """work_pool: as a flow run of `train/gpu` (`pairmill deploy`) on its own work pool. ray: on nodes of the cluster at
    `execution.ray_address`, with `nproc` GPUs of each if it has GPUs."""
    deterministic: bool = True
    """Use only kernels that give the same bits at each run on a device; false: also faster ones, chosen by trial."""
    compile: bool = False
    """Compile the image tower and the blocks of the text tower by torch.compile. The first step then takes minutes."""
    threads: Annotated[int, Field(ge=1)] = 2
    """Threads of torch's CPU kernels per process. Part of the key: how a sum is split changes its last bits."""
    nproc: Annotated[int, Field(ge=1)] = 1
    """Processes (ranks) on each machine. Part of the key, for the same reason."""
    nnodes: Annotated[str, Field(pattern=r"^[1-9]\d{0,3}(:[1-9]\d{0,3})?$")] = "1"
    """Machines, as torchrun counts them: a number, or min:max, which may join and leave. Part of the key."""
    rdzv_endpoint: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9._-]+:\d{1,5}$")] = None
    """HOST:PORT at which several machines meet: one of them, and a free port there (torchrun's c10d rendezvous). With
    launch = "ray" they find one."""
    allow_network: bool = False
    """Let several machines meet where other machines reach them. What listens there has no login, and whoever reaches
    it runs code: set it only on a network of their own (docs/scale.md)."""
    max_restarts: Annotated[int, Field(ge=0, le=1000)] = 3
    """How often several machines resume from the last checkpoint after one of them left or joined."""
    vocabulary: str = "captions"
    """captions: learnt from them; clip: the 49,408 tokens of OpenAI's models; or the path of a tokenizer.json."""
    vocab_size: Annotated[int, Field(ge=MIN_VOCAB_SIZE)] = 8192
    """Maximum size of a vocabulary that is learnt from the captions."""
    init: str | None = None
    """Initial weights: a file or folder of ours, OpenAI's or open_clip's, or hf-hub:owner/name; None: random ones."""
    init_towers: Literal["both", "image"] = "both"
    """image: the text tower starts at random, for another vocabulary or language."""
    lock_image: bool = False
    """Keep the image tower as `init` has it, and train only the text tower (LiT)."""
    loss: Literal["softmax", "sigmoid"] = "softmax"
    """softmax: CLIP's cross-entropy over the batch; sigmoid: SigLIP's binary loss of each pairing."""
    loss_rows: Annotated[int, Field(ge=1)] = 4096
    """Rows of the matrix of all pairings that are in memory at a time."""
    grad_cache: Annotated[int, Field(ge=1)] | None = None
    """Pairs of a rank that pass through the towers at a time: the same gradient with less memory. None: all."""
    grad_checkpointing: bool = False
    """Recompute the activations of transformer blocks in the backward pass: less memory for a third more work."""
    patch_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of an image's patches that is left out, drawn anew at each step (FLIP)."""
    unmasked_tail: Share = 0.02
    """Share of all steps, the last ones, in which every patch is seen."""
    prompts: Annotated[tuple[Prompt, ...], Field(min_length=1)] = ("{}",)
    """Templates, one of which is drawn for a caption each time it is seen."""
    word_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability with which each word of a caption is left out each time it is seen (never all of them)."""
    crop_area: Range | None = None
    """Range of the share of an image's area that a random crop covers (open_clip has [0.9, 1.0]). None: a random
    square of the whole height or width, as in the paper."""
    augment: AugmentConfig = AugmentConfig()
    """Random changes to the images."""
    shuffle_shards: Annotated[int, Field(ge=0)] = 0
    """Shards whose samples are shuffled together: an epoch takes so many at a time, in random order. 0: all of them."""
    max_skipped: Share = 0.01
    """Maximum share of unreadable samples; the run fails above it."""
    max_spike: NonNegative = 2.0
    """The run fails when the mean loss of ten steps exceeds this many medians of the hundred before; 0: never."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Threads per process that read and decode ahead; 0: none."""
    cache_bytes: Annotated[int, Field(ge=0)] = 512 * 1024**2
    """Memory per process for decoded images, in bytes; those that do not fit are decoded again in each epoch."""
    shard_cache_bytes: Annotated[int, Field(ge=0)] = 0
    """Disk for shards, in bytes: each is fetched from the store when it is needed, and deleted after. At least twice
    those of `shuffle_shards`. 0: all shards stay on this disk while training runs."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 1000
    """Steps between checkpoints."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    """Newest checkpoints to keep."""
    evaluate_every: Annotated[int, Field(ge=0)] = 0
    """Steps between evaluations on the suite of `[evaluate]`, into evidence-suite.jsonl; 0: only after training."""
    log_every: Annotated[int, Field(ge=1)] = 50
    """Steps between log lines and rows of evidence-throughput.jsonl; metrics.jsonl has every step."""

    def problems(self) -> list[str]:
        """Return what is wrong with the model's file."""
        return problems_of("model", lambda: load_model_config(self.model))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.nnodes != "1" and self.launch == "ray" and self.shard_cache_bytes:
            raise ValueError("shard_cache_bytes: each of several machines of a Ray cluster holds all shards; set 0")
        if self.nnodes != "1" and self.launch != "ray" and self.rdzv_endpoint is None:
            raise ValueError(f"nnodes is {self.nnodes}: set rdzv_endpoint to where the machines meet (HOST:PORT)")
        host = (self.rdzv_endpoint or "").rpartition(":")[0]
        if self.nnodes != "1" and self.launch != "ray" and not self.allow_network and not is_loopback(host):
            raise ValueError(explain_refusal(f"rdzv_endpoint is {self.rdzv_endpoint}"))
        if self.lock_image and self.init is None:
            raise ValueError("lock_image: an image tower that starts at random has nothing to keep; set init")
        if self.shard_cache_bytes and not self.shuffle_shards:
            raise ValueError("shard_cache_bytes: samples of all shards are shuffled together; set shuffle_shards")
        return self


class VisionConfig(FrozenModel):
    """The image tower: a ModifiedResNet where `layers` lists four stages, else a vision transformer."""

    image_size: Annotated[int, Field(ge=8, le=16_384)] = 224
    """Side of the square input, in pixels."""
    layers: Annotated[int, Field(ge=1, le=1000)] | tuple[Annotated[int, Field(ge=1, le=1000)], ...] = 12
    """Transformer blocks, or bottlenecks in each of a ResNet's four stages."""
    width: Annotated[int, Field(ge=8, le=65_536)] = 768
    """Channels of the transformer, or of the ResNet's stem (its features have 32 times as many)."""
    head_width: Annotated[int, Field(ge=1)] = 64
    """Channels of an attention head."""
    patch_size: Annotated[int, Field(ge=1)] | None = 32
    """Side of a transformer's patch, in pixels; a ResNet has none."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if isinstance(self.layers, tuple):
            if len(self.layers) != 4:
                raise ValueError(f"layers: a ResNet has four stages, not {len(self.layers)}")
            if self.image_size % 32:
                raise ValueError(f"image_size: a ResNet needs a multiple of 32, not {self.image_size}")
            channels = self.width * 32
        else:
            if self.patch_size is None or self.image_size % self.patch_size:
                raise ValueError(f"patch_size: {self.patch_size} does not divide image_size {self.image_size}")
            channels = self.width
        if channels % self.head_width:
            raise ValueError(f"head_width: {self.head_width} does not divide {channels} channels")
        return self


class TextConfig(FrozenModel):
    """The text tower: a causal transformer."""

    context_length: Annotated[int, Field(ge=3, le=65_536)] = 77
    """Maximum tokens of a text, its start and end included."""
    vocab_size: Annotated[int, Field(ge=MIN_VOCAB_SIZE, le=1 << 24)] = 49408
    """Rows of the token embedding; training replaces it with the size of the vocabulary that it learnt."""
    width: Annotated[int, Field(ge=8, le=65_536)] = 512
    """Channels of the transformer."""
    heads: Annotated[int, Field(ge=1)] = 8
    """Attention heads."""
    layers: Annotated[int, Field(ge=1, le=1000)] = 12
    """Transformer blocks."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} does not divide width {self.width}")
        return self


class ModelConfig(FrozenModel):
    """Dimensions of a CLIP model, in open_clip's field names."""

    embed_dim: Annotated[int, Field(ge=1, le=65_536)]
    """Dimensions of the space that images and texts share."""
    quick_gelu: bool = False
    """x * sigmoid(1.702 x) in place of GELU, as in OpenAI's own weights."""
    init_logit_scale: float = math.log(1 / 0.07)
    """Log of the inverse temperature at the start. Source: Radford et al. 2021, section 2.5."""
    init_logit_bias: float | None = None
    """Initial value of the bias that the sigmoid loss adds to each logit; None: the model has no such parameter."""
    vision_cfg: VisionConfig
    """The image tower."""
    text_cfg: TextConfig
    """The text tower."""

    def with_vocab_size(self, vocab_size: int) -> "ModelConfig":
        """Return the same model over another vocabulary."""
        text_cfg = self.text_cfg.model_copy(update={"vocab_size": vocab_size})
        return self.model_copy(update={"text_cfg": text_cfg})

    def for_sigmoid_loss(self) -> "ModelConfig":
        """Return the same model with the sigmoid loss's initial temperature and bias, unless it has a bias already.

        Source: Zhai et al. 2023 (SigLIP), section 3.2.
        """
        if self.init_logit_bias is not None:
            return self
        return self.model_copy(update={"init_logit_scale": math.log(10), "init_logit_bias": -10.0})


def load_model_config(name_or_path: str) -> ModelConfig:
    """Read a model's dimensions.

    Args:
        name_or_path: a name in configs/models/, which `-quickgelu` may follow as in open_clip's names, or a path that
            ends in .json.

    Raises:
        ConfigError: no such model, or its file is not valid; names the file and what is allowed.
    """
    by_path = name_or_path.endswith(".json")
    base = name_or_path.removesuffix(QUICK_GELU)
    path = Path(name_or_path) if by_path else MODELS / f"{base}.json"
    names = ", ".join(sorted(file.stem for file in MODELS.glob("*.json")))
    if not by_path and Path(name_or_path).name != name_or_path:
        raise ConfigError(f"model {name_or_path!r}: neither a path ending in .json nor one of the names {names}")
    try:
        config = ModelConfig.model_validate(json.loads(read_text(path)))
        return config if by_path or base == name_or_path else config.model_copy(update={"quick_gelu": True})
    except (OSError, UnicodeDecodeError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        suggestion = "" if by_path else did_you_mean(base, (file.stem for file in MODELS.glob("*.json")))
        raise ConfigError(
            f"model {name_or_path!r}: cannot read {path} ({reason}); the names are {names}{suggestion}"
        ) from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"model {name_or_path!r}: {path} is not JSON: {error}") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'model'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"model {name_or_path!r}: {path}: {problems}") from error
