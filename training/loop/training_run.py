"""The state of one run of a training job: set-up makes it, the loop changes it, a checkpoint restores it."""

import signal
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dataops.errors import ContractError
from training import distributed
from training.config import TrainConfig
from training.data.loader import Batch, Dataset, Skipped
from training.data.sampling_plan import Plan
from training.data.shard_files import ShardRequests
from training.job import Job, Stopped
from training.loop.flops import StepFlops
from training.loop.health import BadSteps, HealthMonitor, HoldOut, LossScale, StepGuard
from training.loop.initial_model import build_initial_model
from training.loop.inputs import StepInputs
from training.loop.optim import build_optimizer
from training.loop.step import take_step
from training.model.clip import CLIP
from training.model.preprocess import Preprocess
from training.model.tokenizer import Tokenizer
from training.model_config import ModelConfig
from training.sharding import place_model


class SkippedSamples:
    """The samples that training could not read, each counted once: those of this rank, and of all at each `gather`."""

    def __init__(self, dataset: Dataset, max_skipped: float):
        self._samples = set(dataset.skipped)
        self._total = len(dataset) + len(dataset.skipped)
        self._max_skipped = max_skipped

    def add(self, batch: Batch) -> int:
        """Add those of a batch, and return how many of them are new."""
        before = len(self._samples)
        self._samples.update(batch.skipped)
        return len(self._samples) - before

    def check(self) -> None:
        """Compare those of all ranks with the limit; all ranks together.

        Raises: ContractError if they are more than max_skipped.
        """
        self.gather()
        if len(self._samples) > self._max_skipped * self._total:
            example = min(self._samples, key=_shard_and_key)
            raise ContractError(
                f"{len(self._samples)} of {self._total} samples cannot be read, more than max_skipped = "
                f"{self._max_skipped}; one is {example.key} of {example.shard}: {example.reason}"
            )

    def restore(self, items: Iterable[dict[str, str]]) -> None:
        """Add the samples that a checkpoint lists."""
        self._samples.update(Skipped(**item) for item in items)

    def gather(self) -> list[dict[str, str]]:
        """Return the skipped samples of all ranks, sorted by shard and key; all ranks together."""
        gathered = distributed.gather_objects([asdict(item) for item in self._samples])
        self._samples = {Skipped(**item) for of_rank in gathered for item in of_rank}
        return [asdict(item) for item in sorted(self._samples, key=_shard_and_key)]


def _shard_and_key(sample: Skipped) -> tuple[str, str]:
    return sample.shard, sample.key


@dataclass
class Learner:
    """A model, or this rank's part of it, and what belongs to its training."""

    config: TrainConfig
    """With its precision resolved."""
    model: CLIP
    forward: nn.Module
    """The model, or DistributedDataParallel around it."""
    optimizer: Optimizer
    guard: StepGuard | None
    """None if the first bad step ends the job."""
    scale: LossScale | None = None
    """None unless the towers compute in fp16."""

    def take_step(self, inputs: StepInputs, *, lr: float, pairs_of_ranks: Sequence[int] | None = None) -> Tensor:
        """Take one step; on a GPU this only launches it. For arguments and result, see take_step."""
        return take_step(
            self.model,
            self.forward,
            self.optimizer,
            self.config,
            inputs,
            lr=lr,
            pairs_of_ranks=pairs_of_ranks,
            guard=self.guard,
            scale=self.scale,
        )


def build_learner(
    config: TrainConfig,
    dimensions: ModelConfig,
    seed: int,
    device: torch.device,
) -> Learner:
    """Build a model on its device, as it is before the first step, and its optimizer; all ranks together.

    Raises: ConfigError as build_initial_model and the hooks.
    """
    torch.manual_seed(seed)  # decides the first weights; nothing after them draws from torch's generator
    with torch.device("meta") if config.sharding != "none" and distributed.rank() else nullcontext():
        model = build_initial_model(config, dimensions)
    distributed.synchronize_batch_norm(model)
    forward = place_model(model, device, config)
    return Learner(
        config=config,
        model=model,
        forward=forward,
        optimizer=build_optimizer(model, config),
        guard=StepGuard(config, device) if config.max_bad_steps else None,
        scale=LossScale(device) if config.precision == "fp16" else None,
    )


@dataclass
class TrainingRun:
    """One run of a training job, as one rank has it."""

    job: Job
    config: TrainConfig
    """The job's `[train]` table with its precision resolved; the digests are those of the table as it was written."""
    device: torch.device
    dataset: Dataset
    plan: Plan
    shard_requests: ShardRequests | None
    """None where all shards are on this disk."""
    tokenizer: Tokenizer
    preprocess: Preprocess
    text_features: Callable[[Sequence[str]], Tensor] | None
    """Features of a frozen text tower, in place of tokens; None: each step computes them."""
    learner: Learner
    digest: str
    """Digest that done.json holds."""
    resume_digest: str
    """Digest that a checkpoint holds: it leaves out device, threads and number of ranks."""
    flops: dict[int | None, StepFlops]
    """Operations of a step by the number of patches that each image keeps; None for all, without patch dropout."""
    health: HealthMonitor
    skipped: SkippedSamples
    bad_steps: BadSteps | None = None
    """None if the first bad step ends the job."""
    holdout: HoldOut | None = None
    """None if all pairs are trained on."""
    step: int = 0
    """Steps taken, the current one included."""
    saved_step: int = 0
    """Step of the newest checkpoint of this run, or of the one that it resumed from."""
    stop_requested: bool = False
    """True if this rank has received SIGTERM."""
    is_evaluating: bool = False
    """True in an interim evaluation, which a checkpoint precedes."""

    @property
    def model(self) -> CLIP:
        """The model of the learner."""
        return self.learner.model

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.job.output / "checkpoints"

    def extra_tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint holds beside weights and moments, by name; a restored one is copied into them."""
        parts = (self.learner.guard, self.learner.scale)
        return {name: tensor for part in parts if part is not None for name, tensor in part.tensors().items()}

    def request_stop(self, signum: int, frame: object) -> None:
        """Handle SIGTERM: the loop stops after the current step, an interim evaluation at once."""
        self.stop_requested = True
        if self.is_evaluating:
            signal.signal(signum, signal.SIG_IGN)  # a second one must not break the end that the first one began
            raise Stopped(f"stopped in the evaluation after step {self.step}, as asked")
