"""The `[train]` table. The orchestrator reads it: no torch here."""

from collections.abc import Iterator
from functools import reduce
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from dataops import plugins
from dataops.config import ConfigPath, FrozenModel, NameOrPath, Seed, Share, StageConfig, problems_of
from dataops.errors import ConfigError
from dataops.process import count_cores, find_precision, has_gpu
from dataops.schema import CaptionKind
from training.hooks import CHOICES, KINDS, Extension, check_choice, used_hooks
from training.model_config import (
    MIN_VOCAB_SIZE,
    ModelConfig,
    Side,
    load_model_config,
)
from training.rendezvous import explain_refusal, is_loopback

HOLDOUT, HOLDOUT_ABOVE = 0.005, 20_000
"""Share of the pairs that is held out by default, and the number of pairs above which it is."""
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Sharding = Literal["none", "full", "hybrid"]


def _has_one_slot(prompt: str) -> str:
    if prompt.count("{}") != 1:
        raise ValueError(f"a prompt must hold {{}}, where the caption goes, exactly once: {prompt!r}")
    return prompt


ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
Prompt = Annotated[str, AfterValidator(_has_one_slot)]


def _in_order(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError(f"the lower end {ends[0]} is above the upper end {ends[1]}")
    return ends


Range = Annotated[tuple[PositiveFloat, Share], AfterValidator(_in_order)]
CaptionWeights = dict[CaptionKind, Annotated[float, Field(ge=0)]]
"""Weights of the kinds of captions."""


def _names(key: str) -> Any:
    """Return the names in the JSON schema of a key that chooses a registered object."""
    return Field(json_schema_extra=lambda schema: schema.update(enum=list(plugins.load(CHOICES[key]))))


class DatasetConfig(FrozenModel):
    """One `[[train.dataset]]` table: a dataset that a training reads, and its share of an epoch."""

    key: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")] | None = None
    """Key of a dataset (pack snapshot) in the store of the run; not set: the run's own, which exactly one table must be."""
    weight: Annotated[float, Field(gt=0)]
    """Share of the samples of an epoch that are of this dataset, relative to the sum of all weights."""


def _put_own_first(tables: tuple[DatasetConfig, ...]) -> tuple[DatasetConfig, ...]:
    """Return the run's own dataset first, and nothing if it is the only one."""
    own, others = [one for one in tables if one.key is None], [one for one in tables if one.key is not None]
    if tables and len(own) != 1:
        raise ValueError(f"{len(own)} tables have no key; exactly one must be the run's own dataset, without a key")
    keys = [one.key for one in others]
    if twice := sorted({str(key) for key in keys if keys.count(key) > 1}):
        raise ValueError(f"{', '.join(twice)} is named twice; name each dataset once, with the sum of its weights")
    return (*own, *others) if others else ()


Datasets = Annotated[tuple[DatasetConfig, ...], AfterValidator(_put_own_first)]


class TrainTable(StageConfig):
    """The core's keys of `[train]`.

    The defaults of optimisation are the paper's for ViT (Radford et al. 2021, tables 18-19).
    """

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
    placement_fields: ClassVar[frozenset[str]] = frozenset({"device", "threads", "nproc", "nnodes", "sharding"})
    """Fields that change only the last bits of sums: a job resumes from a checkpoint made with other values."""

    model: NameOrPath = "ViT-B-32"
    """A name in configs/models/, or the path of such a JSON file."""
    image_size: Side | None = None
    """Side of the input, in pixels, in place of the model's own: to train at 112 first, and to finish at 224 with `init`.

    The position embeddings of `init` are resized to it."""
    epochs: PositiveInt = 32
    """Passes over the dataset; each sample is seen once in each, or with its sampling_probability where it has one. With
    `dataset`, an epoch has as many samples as one pass over all datasets, in the shares that their weights give."""
    seed: Seed | None = None
    """Seed of this training only: another one trains again on the same dataset. Default: the seed of the run."""
    dataset: Datasets = ()
    """Datasets that the training reads. Default: only the run's own."""
    blur_faces: bool = False
    """Blur the faces that [curate.scores.faces] found (column `face_bboxes`) in each image as it is read.

    The images in the shards stay as they are. A sample in which no face detection ran is left out."""
    batch_size: Annotated[int, Field(ge=2)] = 1024
    """Maximum pairs per step over all ranks: an epoch is cut into the fewest such batches, equal to within one pair."""
    lr: PositiveFloat = 5e-4
    """Peak learning rate."""
    weight_decay: NonNegativeFloat = 0.2
    """Decoupled weight decay on matrices and kernels; gains, biases and logit_scale have none."""
    beta1: ShareBelowOne = 0.9
    """Decay of Adam's first moment."""
    beta2: ShareBelowOne = 0.98
    """Decay of Adam's second moment."""
    eps: PositiveFloat = 1e-6
    """Adam's epsilon."""
    warmup: ShareBelowOne = 0.05
    """Share of all steps in which the learning rate climbs from 0; the schedule follows."""
    warmup_steps: NonNegativeInt | None = None
    """Number of those steps, in place of their share."""
    schedule: Annotated[str, AfterValidator(check_choice("schedule")), _names("schedule")] = "cosine"
    """Learning rate after the warm-up. cosine: half a cosine to 0. constant: the peak."""
    optimizer: Annotated[str, AfterValidator(check_choice("optimizer")), _names("optimizer")] = "adamw"
    """Optimizer of the weights."""
    max_grad_norm: NonNegativeFloat = 0.0
    """Maximum global norm of the gradients, which are scaled down to it; 0: never."""
    max_bad_steps: NonNegativeInt = 0
    """Bad steps in a row after which the training rolls back, or without rollbacks fails. The update of a bad step is
    skipped. 0: the first step whose loss or gradient is not finite fails."""
    bad_loss: NonNegativeFloat = 0.0
    """A step is bad if its loss exceeds this many means of the last hundred good steps; 0: only if it is not finite."""
    bad_grad_norm: NonNegativeFloat = 0.0
    """The same for the norm of its gradient."""
    max_rollbacks: NonNegativeInt = 0
    """Maximum number of rollbacks: the training continues with the weights of the last checkpoint before the bad steps,
    and with the data after them. Part of the key, and so is checkpoint_every then."""
    label_smoothing: ShareBelowOne = 0.0
    """Share of each target spread evenly over the batch."""
    precision: Precision = "auto"
    """bf16, fp16: autocast of the two towers; weights, optimizer and loss stay in fp32, and fp16 scales the loss. auto:
    bf16 on GPUs and CPUs that compute in it, fp16 on older GPUs, else fp32; the key has what it was. On a work pool or
    a cluster, whose machines are not known, auto is bf16, and with device = "cpu" fp32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda if torch sees it, else cpu. With several ranks, on a work pool, or where a driver offers a GPU, it is
    cuda, and an error if torch cannot use it."""
    launch: str = Field(default="local", pattern=r"^[a-z][a-z0-9_]*$")
    """work_pool: as a flow run of `train/gpu` (`pairmill deploy`) on its own work pool. ray: on nodes of the cluster at
    `execution.ray_address`, with `nproc` GPUs of each if it has GPUs. slurm: as a job (docs/operate/slurm.md). nodes: on
    the machines that `pairmill node` joins (docs/operate/scale.md)."""
    deterministic: bool | None = None
    """Use only kernels that give the same bits at each run on a device; false: also faster ones, chosen by trial. Default:
    on CPUs true, on GPUs false. A training on a GPU resumes in the same bits only with true."""
    compile: bool = False
    """Compile the image tower and the blocks of the text tower by torch.compile. The first step then takes minutes."""
    threads: PositiveInt = 2
    """Threads of torch's CPU kernels per process. Part of the key: how a sum is split changes its last bits."""
    nproc: PositiveInt = 1
    """Processes (ranks) on each machine. Part of the key, for the same reason."""
    nnodes: Annotated[str, Field(pattern=r"^[1-9]\d{0,3}(:[1-9]\d{0,3})?$")] = "1"
    """Machines, as torchrun counts them: a number, or min:max, which may join and leave. Part of the key."""
    rdzv_endpoint: Annotated[
        str | None,
        Field(pattern=r"^[A-Za-z0-9._-]+:([1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d\d|655[0-2]\d|6553[0-5])$"),
    ] = None
    """HOST:PORT at which several machines meet: one of them, and a free port there (torchrun's c10d rendezvous). With
    launch = "nodes", "ray" or "slurm" they find one."""
    allow_network: bool = False
    """Let several machines meet where other machines reach them. What listens there has no login, and whoever reaches
    it runs code: set it only on a network of their own (docs/operate/scale.md)."""
    max_restarts: Annotated[int, Field(ge=0, le=1000)] = 3
    """How often several machines resume from the last checkpoint after one of them left or joined."""
    vocabulary: NameOrPath = "captions"
    """captions: learnt from them; clip: the 49,408 tokens of OpenAI's models; or the path of a tokenizer.json."""
    vocab_size: Annotated[int, Field(ge=MIN_VOCAB_SIZE)] = 8192
    """Maximum size of a vocabulary that is learnt from the captions."""
    init: ConfigPath | None = None
    """Initial weights: a file or folder of ours, OpenAI's or open_clip's, or hf-hub:owner/name; None: random ones."""
    init_towers: Literal["both", "image"] = "both"
    """image: the text tower starts at random, for another vocabulary or language."""
    lock_image: bool = False
    """Keep the image tower as `init` has it, and train only the text tower (LiT)."""
    unlocked_image_groups: NonNegativeInt = 0
    """Groups of layers at the end of a locked image tower that are trained. A ViT has the projection, the last block with
    the norm after it, each other block, and the embeddings; a ResNet the attention pool, four stages, and the stem."""
    lock_text: bool = False
    """Keep the text tower as `init` has it; the temperature is trained."""
    unlocked_text_groups: NonNegativeInt = 0
    """Groups of layers at the end of a locked text tower that are trained, as in a ViT."""
    loss: Annotated[str, AfterValidator(check_choice("loss")), _names("loss")] = "softmax"
    """softmax: CLIP's cross-entropy over the batch; sigmoid: SigLIP's binary loss of each pairing."""
    multi_positive: Literal["off", "mask", "share"] = "off"
    """Pairs of a batch with the same image or the same caption. off: negatives of each other. mask: left out. share: the
    targets of a softmax are uniform over them (UniCL), and those of a sigmoid are 1."""
    loss_rows: PositiveInt = 4096
    """Rows of the matrix of all pairings that are in memory at a time."""
    sharding: Sharding = "none"
    """none: each rank holds the whole model. full: each rank holds a part of the weights, gradients and moments, and
    blocks are gathered as they are needed (FSDP2). hybrid: full in each machine, with a copy on each machine (HSDP).
    With one rank it changes nothing, and a ResNet takes only none."""
    grad_cache: PositiveInt | None = None
    """Pairs of a rank that pass through the towers at a time: the same gradient with less memory. None: all."""
    grad_checkpointing: bool = False
    """Recompute the activations of transformer blocks in the backward pass: less memory for a third more work."""
    patch_dropout: ShareBelowOne = 0.0
    """Share of an image's patches that is left out, drawn again at each step (FLIP)."""
    unmasked_tail: Share = 0.02
    """Share of all steps, the last ones, in which every patch is seen."""
    prompts: Annotated[tuple[Prompt, ...], Field(min_length=1)] = ("{}",)
    """Templates, one of which is drawn for a caption each time it is seen."""
    captions: CaptionWeights | None = None
    """`[train.captions]`: weights by which each visit of a sample chooses the kind of its caption, such as
    `synthetic = 0.3`. A kind without a weight has 1. Without the table, the caption is that of the `.txt`."""
    word_dropout: ShareBelowOne = 0.0
    """Probability with which each word of a caption is left out each time it is seen (never all of them)."""
    crop_area: Range | None = None
    """Range of the share of an image's area that a random crop covers (open_clip has [0.9, 1.0]). None: a random
    square of the whole height or width, as in the paper."""
    shuffle_shards: NonNegativeInt = 0
    """Shards whose samples are shuffled together: an epoch takes so many at a time, in random order. 0: all of them."""
    max_skipped: Share = 0.01
    """Maximum share of unreadable samples; the run fails above it."""
    max_spike: NonNegativeFloat = 2.0
    """The run fails when the mean loss of ten steps exceeds this many medians of the hundred before; 0: never."""
    workers: NonNegativeInt | None = None
    """Threads per process that read and decode ahead; 0: none. Default: the cores that the job may use on its machine,
    divided by the machine's ranks."""
    cache_bytes: NonNegativeInt = 512 * 1024**2
    """Memory per process for decoded images, in bytes; those that do not fit are decoded again in each epoch."""
    shard_cache_bytes: NonNegativeInt = 0
    """Disk for shards, in bytes: each is fetched from the store when it is needed, and deleted after. At least twice
    those of `shuffle_shards`. 0: all shards stay on this disk while training runs."""
    checkpoint_every: PositiveInt = 1000
    """Steps between checkpoints."""
    keep_checkpoints: PositiveInt = 2
    """Newest checkpoints to keep."""
    evaluate_every: NonNegativeInt = 0
    """Steps between evaluations on the suite of `[evaluate]`, into evidence-suite.jsonl, and on the hold-out. 0: on the
    suite only after training, on the hold-out at 20 steps. Part of the key with keep = "best" and with patience."""
    holdout: Annotated[float, Field(ge=0, le=0.2)] | None = None
    """Share of the pairs that is never trained on, and measured while training runs: loss and R@1 in holdout.jsonl. Pairs
    of equal or nearly equal images are held out together. 0: none. Default: 0.005 of datasets of more than 20,000 pairs,
    and none with shard_cache_bytes."""
    keep: Literal["last", "best"] = "last"
    """The model that the training ends with. best: that of the lowest loss on the hold-out."""
    patience: PositiveInt | None = None
    """Measurements on the hold-out without a lower loss after which the training ends. None: it takes all steps."""
    log_every: PositiveInt = 50
    """Steps between log lines and rows of evidence-throughput.jsonl; metrics.jsonl has every step."""


class TrainConfig(reduce(plugins.extend, KINDS, TrainTable)):
    """The `[train]` table, with the keys of the losses, optimizers, schedules and hooks that are installed."""

    execution_fields: ClassVar[frozenset[str]] = TrainTable.execution_fields.union(
        *(one.execution_fields for kind in KINDS for one in plugins.load(kind).values())
    )

    def with_precision(self) -> Self:
        """Return the config with `precision` resolved for this machine, unless another one trains."""
        if self.precision != "auto":
            return self
        if self.launch == "local":
            precision = find_precision(on_gpu=self.device == "cuda" or (self.device == "auto" and has_gpu()))
        else:
            precision = "fp32" if self.device == "cpu" else "bf16"
        return self.model_copy(update={"precision": precision})

    @property
    def loader_threads(self) -> int:
        """Threads of this process that read and decode ahead."""
        return count_cores() if self.workers is None else self.workers

    def problems(self) -> list[str]:
        """Return what is wrong with the model's file, and what the hooks miss on this machine."""
        found = problems_of("model", self.load_dimensions)
        missing = [problem for hook in used_hooks(self) for problem in hook.problems(self)]
        return [*(problem.removeprefix("model: train.") for problem in found), *missing]

    def load_dimensions(self) -> ModelConfig:
        """Read the model's dimensions, with `image_size` where it is set, as the hooks change them.

        Raises: ConfigError: there is no such model, its file is not valid, it cannot have this size, or the files of a
            tower are missing.
        """
        dimensions = load_model_config(self.model)
        for hook in used_hooks(self):
            dimensions = hook.dimensions(self, dimensions)
        return dimensions if self.image_size is None else dimensions.with_image_size(self.image_size)

    def key_config(self) -> dict[str, Any]:
        """Return the fields of the key.

        The keys of datasets are inputs of the stage in the same order. With rollbacks, the step of a checkpoint decides the
        weights.
        """
        values = super().key_config()
        values["precision"] = self.with_precision().precision
        if self.seed is None:
            del values["seed"]
        named = [(kind, getattr(self, key)) for key, kind in CHOICES.items()]
        chosen = {name: plugins.plugin_version(kind, name) for kind, name in named}
        if used := {name: version for name, version in chosen.items() if version is not None}:
            values["plugins"] = used | values.get("plugins", {})
        if self.dataset:
            values["dataset"] = [one.weight for one in self.dataset]
        if self.max_rollbacks:
            values["checkpoint_every"] = self.checkpoint_every
        if self.needs_holdout:
            values["evaluate_every"] = self.evaluate_every
        unset = {"holdout": None, "keep": "last", "patience": None}
        return {name: value for name, value in values.items() if name not in unset or value != unset[name]}

    @property
    def needs_holdout(self) -> bool:
        """Whether the hold-out decides which weights the training ends with."""
        return self.keep == "best" or self.patience is not None

    def with_holdout(self, pairs: int) -> Self:
        """Return the config with `holdout` resolved for datasets of this many pairs.

        Raises: ConfigError if there is none, and the config needs one.
        """
        default = HOLDOUT if pairs > HOLDOUT_ABOVE and not self.shard_cache_bytes else None
        resolved = self.model_copy(update={"holdout": default if self.holdout is None else self.holdout})
        if self.needs_holdout and not resolved.holdout:
            raise ConfigError(
                f'train.holdout: keep = "best" and patience need pairs that are held out, and the {pairs:,} pairs are too '
                "few for it to be set by default; set holdout, such as 0.02"
            )
        return resolved

    @property
    def rollback_every(self) -> int:
        """Steps between the checkpoints that a rollback may restore; 0 without rollbacks."""
        return self.checkpoint_every if self.max_rollbacks else 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for one in self._extensions():
            one.check(self)
        if self.nnodes != "1" and self.is_on_cluster and self.shard_cache_bytes:
            raise ValueError("shard_cache_bytes: each of several machines of a cluster holds all shards; set 0")
        if self.nnodes != "1" and not self.is_on_cluster:
            if self.rdzv_endpoint is None:
                raise ValueError(f"nnodes is {self.nnodes}: set rdzv_endpoint to where the machines meet (HOST:PORT)")
            if not self.allow_network and not is_loopback(self.rdzv_endpoint.rpartition(":")[0]):
                raise ValueError(explain_refusal(f"rdzv_endpoint is {self.rdzv_endpoint}"))
        pretrained = self.pretrained_towers
        if self.lock_image and "image" not in pretrained:
            raise ValueError("lock_image: an image tower that starts at random has nothing to keep; set init")
        if self.lock_text and "text" not in pretrained:
            raise ValueError('lock_text: a text tower that starts at random has nothing to keep; set init, for "both"')
        if not self.max_bad_steps and (self.bad_loss or self.bad_grad_norm or self.max_rollbacks):
            raise ValueError("bad_loss, bad_grad_norm and max_rollbacks need max_bad_steps of at least 1")
        if self.max_rollbacks and self.max_bad_steps > self.checkpoint_every:
            raise ValueError("max_bad_steps: a rollback needs a checkpoint before them; set at most checkpoint_every")
        for tower in ("image", "text"):
            if getattr(self, f"unlocked_{tower}_groups") and not getattr(self, f"lock_{tower}"):
                raise ValueError(f"unlocked_{tower}_groups: the whole tower is trained; set lock_{tower}")
        if self.lock_image and self.lock_text and not (self.unlocked_image_groups or self.unlocked_text_groups):
            raise ValueError("lock_image and lock_text leave nothing to train; set unlocked_image_groups or another")
        if self.needs_holdout and self.holdout == 0:
            raise ValueError('keep = "best" and patience need pairs that are held out; set holdout above 0')
        if self.holdout and self.shard_cache_bytes:
            raise ValueError("holdout: its images lie in all shards; set shard_cache_bytes = 0, or holdout = 0")
        if self.shard_cache_bytes and not self.shuffle_shards:
            raise ValueError("shard_cache_bytes: samples of all shards are shuffled together; set shuffle_shards")
        return self

    @property
    def is_on_cluster(self) -> bool:
        """Whether an executor of a plugin starts the job on machines of its own, which meet where it says."""
        return self.launch not in ("local", "work_pool")

    @property
    def pretrained_towers(self) -> frozenset[str]:
        """The towers, "image" and "text", that start from pretrained weights."""
        of_init = () if self.init is None else ("image",) if self.init_towers == "image" else ("image", "text")
        return frozenset(of_init).union(*(hook.pretrained_towers(self) for hook in used_hooks(self)))

    def _extensions(self) -> Iterator[Extension]:
        """Yield the objects that the config chooses or uses."""
        yield from (plugins.find(kind, getattr(self, key)) for key, kind in CHOICES.items())
        yield from used_hooks(self)
