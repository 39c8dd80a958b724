"""The `[train]` table. The orchestrator reads it: no torch here."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from dataops.config import StageConfig, problems_of
from dataops.process import count_cores
from training.datasets import Datasets
from training.model_config import MIN_VOCAB_SIZE, ModelConfig, load_model_config
from training.options.augment import AugmentConfig
from training.options.bounds import NonNegative, Positive, Share
from training.options.captions import CaptionWeights
from training.options.global_loss import GlobalLossConfig
from training.options.image_init import ImageInit
from training.options.loss_checks import find_loss_problem
from training.options.packages import check_packages
from training.options.phases import Phases, list_dimensions
from training.options.teacher import DistillConfig, TeacherConfig
from training.options.text_init import TextInit
from training.options.tower_checks import check_towers
from training.rendezvous import explain_refusal, is_loopback
from training.towers.dimensions import assemble_dimensions

TRACE = "evidence-profile.json.gz"
"""Name of the file that `profile` writes."""
Precision = Literal["auto", "fp32", "bf16"]
Sharding = Literal["none", "full", "hybrid"]


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
            "profile",
            "max_spike",
            "launch",
            "evaluate_every",
            "rdzv_endpoint",
            "allow_network",
            "max_restarts",
            "tensorboard",
            "wandb",
        }
    )
    """Fields that change how a run executes but no bit of its output; the snapshot key leaves them out."""
    placement_fields: ClassVar[frozenset[str]] = frozenset({"device", "threads", "nproc", "nnodes", "sharding"})
    """Fields that change only the last bits of sums: a job resumes from a checkpoint made with other values."""

    model: str = "ViT-B-32"
    """A name in configs/models/, or the path of such a JSON file."""
    image_size: Annotated[int, Field(ge=8, le=16_384)] | None = None
    """Side of the input, in pixels, in place of the model's own: to train at 112 first, and to finish at 224 with `init`.

    The position embeddings of `init` are resized to it."""
    epochs: Annotated[int, Field(ge=1)] = 32
    """Passes over the dataset; each sample is seen once in each, or with its sampling_probability where it has one. With
    `dataset`, an epoch has as many samples as one pass over all datasets, in the shares that their weights give."""
    dataset: Datasets = ()
    """Datasets that the training reads. Default: only the run's own."""
    phase: Phases = ()
    """Parts of the training with an image size, context length and batch size of their own. Default: none."""
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
    """Share of all steps in which the learning rate climbs from 0; the schedule follows."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Number of those steps, in place of their share."""
    schedule: Literal["cosine", "constant", "rsqrt", "wsd"] = "cosine"
    """Learning rate after the warm-up. cosine: half a cosine to 0. constant: the peak. rsqrt: the peak / sqrt(1 + steps
    after the warm-up / rsqrt_steps). wsd (warm-up, stable, decay): the peak, then the cool-down."""
    rsqrt_steps: Annotated[int, Field(ge=1)] = 10_000
    """Time scale of rsqrt, in steps."""
    cooldown: Share | None = None
    """Share of all steps, the last ones, in which the learning rate falls to 0; None: 0.2 with wsd, else 0. cosine has
    none."""
    cooldown_shape: Literal["linear", "sqrt"] = "linear"
    """Factor of the learning rate in a cool-down of which a share s has passed: 1 - s, or 1 - sqrt(s)."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: Muon for the matrices of transformer blocks, AdamW for all else. Its updates are scaled to the size of
    AdamW's, so lr and weight_decay mean the same."""
    muon_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Momentum of Muon."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor between the learning rates of neighbouring groups of layers (see unlocked_image_groups): the last group of
    each tower has `lr`, each before it this factor less; 1: none."""
    max_grad_norm: NonNegative = 0.0
    """Maximum global norm of the gradients, which are scaled down to it; 0: never."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of an exponential moving average of the weights, such as 0.9999, which is evaluated and saved as the model in
    their place; 0: none."""
    average_last: Annotated[int, Field(ge=0)] = 0
    """Number of the last points of the training whose weights are averaged, evaluated and saved as the model; 0: none."""
    average_every: Annotated[int, Field(ge=1)] = 100
    """Steps between these points; the last one is the last step."""
    max_bad_steps: Annotated[int, Field(ge=0)] = 0
    """Bad steps in a row after which the training rolls back, or without rollbacks fails. The update of a bad step is
    skipped. 0: the first step whose loss or gradient is not finite fails."""
    bad_loss: NonNegative = 0.0
    """A step is bad if its loss exceeds this many means of the last hundred good steps; 0: only if it is not finite."""
    bad_grad_norm: NonNegative = 0.0
    """The same for the norm of its gradient."""
    max_rollbacks: Annotated[int, Field(ge=0)] = 0
    """Maximum number of rollbacks: the training continues with the weights of the last checkpoint before the bad steps,
    and with the data after them. Part of the key, and so is checkpoint_every then."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each target spread evenly over the batch."""
    precision: Precision = "auto"
    """bf16: autocast of the two towers; weights, optimizer and loss stay in fp32. auto: bf16 on CUDA and on CPUs that
    compute in it, else fp32."""
    fp8: bool = False
    """Compute the matrix products of transformer blocks in fp8, by torchao, on cards from compute capability 8.9 on (Ada,
    Hopper); a CPU emulates it, slowly. All else is as `precision` says."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda if torch sees it, else cpu."""
    launch: str = Field(default="local", pattern=r"^[a-z][a-z0-9_]*$")
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
    text_init: TextInit | None = None
    """Pretrained weights for the text tower; None: it has the transformer of `model`."""
    image_init: ImageInit | None = None
    """Pretrained weights for the image tower; None: it has the network of `model`."""
    lock_image: bool = False
    """Keep the image tower as `init` has it, and train only the text tower (LiT)."""
    unlocked_image_groups: Annotated[int, Field(ge=0)] = 0
    """Groups of layers at the end of a locked image tower that are trained. A ViT has the projection, the last block with
    the norm after it, each other block, and the embeddings; a ResNet the attention pool, four stages, and the stem."""
    lock_text: bool = False
    """Keep the text tower as `init` has it; the temperature is trained."""
    unlocked_text_groups: Annotated[int, Field(ge=0)] = 0
    """Groups of layers at the end of a locked text tower that are trained, as in a ViT."""
    lock_norms: bool = False
    """Keep all layer and batch norms as `init` has them, the statistics of batch norms included."""
    loss: Literal["softmax", "sigmoid", "global"] = "softmax"
    """softmax: CLIP's cross-entropy over the batch; sigmoid: SigLIP's binary loss of each pairing; global: FastCLIP's loss
    over the dataset, for small batches."""
    global_loss: GlobalLossConfig = GlobalLossConfig()
    """Settings of `loss = "global"`."""
    multi_positive: Literal["off", "mask", "share"] = "off"
    """Pairs of a batch with the same image or the same caption. off: negatives of each other. mask: left out. share: the
    targets of a softmax are uniform over them (UniCL), and those of a sigmoid are 1."""
    distill: DistillConfig | None = None
    """Distillation from a teacher's stored features."""
    reference: TeacherConfig | None = None
    """Reference model, whose similarities are subtracted from the model's own in the loss."""
    loss_rows: Annotated[int, Field(ge=1)] = 4096
    """Rows of the matrix of all pairings that are in memory at a time."""
    sharding: Sharding = "none"
    """none: each rank holds the whole model. full: each rank holds a part of the weights, gradients and moments, and
    blocks are gathered as they are needed (FSDP2). hybrid: full in each machine, with a copy on each machine (HSDP).
    With one rank it changes nothing, and a ResNet takes only none."""
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
    captions: CaptionWeights | None = None
    """`[train.captions]`: weights by which each visit of a sample chooses the kind of its caption, such as
    `synthetic = 0.3`. A kind without a weight has 1. Without the table, the caption is that of the `.txt`."""
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
    workers: Annotated[int, Field(ge=0)] | None = None
    """Threads per process that read and decode ahead; 0: none. Default: the cores that the job may use on its machine,
    divided by the machine's ranks."""
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
    profile: Annotated[int, Field(ge=0, le=50)] = 0
    """Steps that torch's profiler traces into evidence-profile.json.gz, once a training, after its first ten; 0: none."""

    tensorboard: Annotated[str, Field(min_length=1)] | None = None
    """Folder for TensorBoard's event files of the curves, in a subfolder for each snapshot; needs `pip install -e
    '.[tensorboard]'`."""
    wandb: Annotated[str, Field(pattern=r"^([\w.-]+/)?[\w.-]+$")] | None = None
    """Project of Weights & Biases (or entity/project) that shows the curves; needs `pip install -e '.[wandb]'`. Log in by
    WANDB_API_KEY in the environment of the run; WANDB_MODE=offline writes files only."""

    @property
    def loader_threads(self) -> int:
        """Threads of this process that read and decode ahead."""
        return count_cores() if self.workers is None else self.workers

    def problems(self) -> list[str]:
        """Return what is wrong with the model's file, and which optional packages are missing."""
        found = problems_of("model", self.load_dimensions) or problems_of("phase", self.load_phases)
        return [*(problem.removeprefix("model: train.") for problem in found), *check_packages(self)]

    def load_dimensions(self) -> ModelConfig:
        """Read the model's dimensions, with `image_size` where it is set, and the pretrained towers.

        Raises: ConfigError: there is no such model, its file is not valid, it cannot have this size, or the files of a
            tower are missing.
        """
        dimensions = load_model_config(self.model)
        dimensions = assemble_dimensions(dimensions, self.text_init, self.image_init, self.image_size)
        return dimensions if self.image_size is None else dimensions.with_image_size(self.image_size)

    def load_phases(self) -> tuple[ModelConfig, ...]:
        """Read the model's dimensions in each phase of the training, the last of which are its own.

        Raises: ConfigError as load_dimensions, or if a phase does not fit the model.
        """
        return list_dimensions(self.phase, self.load_dimensions())

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Maximum pairs per step in each phase; of the whole training, if it has none."""
        return tuple(one.batch_size or self.batch_size for one in self.phase) or (self.batch_size,)

    def key_config(self) -> dict[str, Any]:
        """Return the fields of the key.

        The keys of datasets are inputs of the stage in the same order. With rollbacks, the step of a checkpoint decides the
        weights.
        """
        values = super().key_config()
        if self.dataset:
            values["dataset"] = [one.weight for one in self.dataset]
        if self.max_rollbacks:
            values["checkpoint_every"] = self.checkpoint_every
        return values

    @property
    def rollback_every(self) -> int:
        """Steps between the checkpoints that a rollback may restore; 0 without rollbacks."""
        return self.checkpoint_every if self.max_rollbacks else 0

    @property
    def cooldown_share(self) -> float:
        """Share of all steps in which the learning rate falls to 0 at the end."""
        return self.cooldown if self.cooldown is not None else 0.2 if self.schedule == "wsd" else 0.0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_towers(self)
        if self.nnodes != "1" and self.launch == "ray" and self.shard_cache_bytes:
            raise ValueError("shard_cache_bytes: each of several machines of a Ray cluster holds all shards; set 0")
        if self.nnodes != "1" and self.launch != "ray" and self.rdzv_endpoint is None:
            raise ValueError(f"nnodes is {self.nnodes}: set rdzv_endpoint to where the machines meet (HOST:PORT)")
        host = (self.rdzv_endpoint or "").rpartition(":")[0]
        if self.nnodes != "1" and self.launch != "ray" and not self.allow_network and not is_loopback(host):
            raise ValueError(explain_refusal(f"rdzv_endpoint is {self.rdzv_endpoint}"))
        if self.lock_image and self.init is None and self.image_init is None:
            raise ValueError("lock_image: an image tower that starts at random has nothing to keep; set init")
        if self.lock_text and self.text_init is None and (self.init is None or self.init_towers == "image"):
            raise ValueError('lock_text: a text tower that starts at random has nothing to keep; set init, for "both"')
        if self.lock_norms and self.init is self.image_init is self.text_init is None:
            raise ValueError("lock_norms: norms at their start have nothing to keep; set init")
        if problem := find_loss_problem(self):
            raise ValueError(problem)
        if not self.max_bad_steps and (self.bad_loss or self.bad_grad_norm or self.max_rollbacks):
            raise ValueError("bad_loss, bad_grad_norm and max_rollbacks need max_bad_steps of at least 1")
        if self.max_rollbacks and self.max_bad_steps > self.checkpoint_every:
            raise ValueError("max_bad_steps: a rollback needs a checkpoint before them; set at most checkpoint_every")
        for tower in ("image", "text"):
            if getattr(self, f"unlocked_{tower}_groups") and not getattr(self, f"lock_{tower}"):
                raise ValueError(f"unlocked_{tower}_groups: the whole tower is trained; set lock_{tower}")
        if self.lock_image and self.lock_text and not (self.unlocked_image_groups or self.unlocked_text_groups):
            raise ValueError("lock_image and lock_text leave nothing to train; set unlocked_image_groups or another")
        if self.optimizer == "muon" and self.sharding != "none":
            raise ValueError('optimizer = "muon" needs whole matrices; set sharding = "none"')
        if self.schedule == "cosine" and self.cooldown:
            raise ValueError('cooldown: the cosine falls to 0 itself; set schedule to "constant", "rsqrt" or "wsd"')
        if self.schedule == "wsd" and self.cooldown == 0:
            raise ValueError('cooldown: wsd ends in one; set more than 0, or schedule = "constant"')
        if self.shard_cache_bytes and not self.shuffle_shards:
            raise ValueError("shard_cache_bytes: samples of all shards are shuffled together; set shuffle_shards")
        return self
