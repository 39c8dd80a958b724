"""Contrastive training, from shards to a finished model: `python -m training.train JOB.json`.

Several ranks: `python -m torch.distributed.run --standalone --nproc-per-node N -m training.train JOB.json`.

JOB.json is a `Job`. Into its output go model.safetensors, model.json, tokenizer.json, metrics.jsonl (one row per step, no
clocks), skipped.json, evidence-throughput.jsonl (clocks), checkpoints/ and, written last, done.json. Started again, the
job goes on from its newest valid checkpoint and ends in the same bits; finished, it returns at once.

Exit codes: 0 done; 2 config; 3 the shards break their contract; 4 loss or gradients not finite; 75 stopped (SIGTERM, after
a checkpoint), parent gone, or another trainer holds the output; 1 anything else. torchrun itself always says 1, so
failure.json in the output holds the code and the message of a deliberate error.
"""

import logging
import math
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
import torch.utils.deterministic as deterministic
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from dataops.digest import canonical_json, file_sha256
from dataops.errors import ConfigError, ContractError, TrainingDiverged
from training import distributed
from training.config import AugmentConfig, Precision, TrainConfig, load_model_config
from training.data.augment import augment
from training.data.loader import READ_AHEAD, Batch, Dataset, Skipped, load_batches
from training.data.sampling_plan import Plan
from training.data.shard_files import ShardRequests
from training.job import Job, Stopped, check_shards, is_done, lock_output, resolve_device, run_command
from training.loop.health import HealthMonitor
from training.loop.initial_model import build_initial_model, draw_kept_patches
from training.loop.interim_evaluation import evaluate_interim
from training.loop.loss import StepOutcome
from training.loop.metrics_log import MetricsLog, StepFlops
from training.loop.optim import build_optimizer, learning_rate
from training.loop.out_of_memory import find_largest_batch, is_out_of_memory
from training.loop.step import backward, gradient_norm, normalize_pixels, update
from training.model.checkpoint import (
    MODEL_FILES,
    CheckpointWriter,
    LoadedModel,
    find_newest_checkpoint,
    restore_checkpoint,
    save_model,
    write_atomically,
)
from training.model.preprocess import Preprocess, normalize
from training.model.tokenizer import Tokenizer, make_tokenizer

logger = logging.getLogger("training.train")

OUTPUTS = (*MODEL_FILES, "metrics.jsonl", "skipped.json")


def main(arguments: list[str]) -> int:
    """Run the job; returns the exit code."""
    handler = signal.signal(signal.SIGTERM, _stop_at_once)  # until there is something to checkpoint
    try:
        return run_command(arguments, Job, run)
    finally:
        signal.signal(signal.SIGTERM, handler)


def run(job: Job) -> None:
    """Train, unless it is done; all ranks together."""
    device = resolve_device(job.train.device)
    _set_up_torch(job.train)
    distributed.join(device)
    with lock_output(job.output):
        if not is_done(job.output, job.digest()):
            _Training(job, device).run()


class _Training:
    """One run of a job, from what its output holds to done.json."""

    def __init__(self, job: Job, device: torch.device):
        config = job.train.model_copy(update={"precision": resolve_precision(job.train.precision, device)})
        self.job, self.device = job.model_copy(update={"train": config}), device
        if config.evaluate_every and job.suite is None:
            raise ConfigError("evaluate_every: the job names no suite")
        check_shards(job)
        model_config = load_model_config(config.model)
        self.preprocess = Preprocess(model_config.vision_cfg.image_size)
        side = self.preprocess.image_size
        self.dataset = Dataset(
            list(job.shards), side, config.cache_bytes, config.crop_area, job.arriving, blur_faces=config.blur_faces
        )
        windows = self.dataset.windows(config.shuffle_shards)
        self.plan = Plan(len(self.dataset), config, job.seed, self.dataset.sampling, windows)
        files, limit = self.dataset.files, config.shard_cache_bytes
        self.wishes = ShardRequests(files, self.plan, limit) if job.arriving else None
        if (smallest := self.plan.smallest_batch) < 2 * distributed.world_size():
            remedy = "batch_size" if self.plan.sampling is None else "batch_size, or filter.balance.max_per_query"
            raise ConfigError(
                f"{smallest} pairs a step are too few for {distributed.world_size()} ranks: raise {remedy}"
            )
        self.tokenizer = self._train_tokenizer(model_config.text_cfg.context_length)

        torch.manual_seed(job.seed)  # the first weights; nothing after them draws from torch's generator
        self.model = build_initial_model(config, model_config.with_vocab_size(self.tokenizer.vocab_size))
        distributed.synchronize_batch_norm(self.model, device)
        self.model.to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.optimizer = build_optimizer(self.model, config)
        self.forward = self.model
        if distributed.world_size() > 1:
            device_ids = [device] if device.type == "cuda" else None
            self.forward = DistributedDataParallel(self.model, device_ids=device_ids)
        self.digest, self.resumable = job.digest(), job.digest(placed=False)
        self.health = HealthMonitor(self.model, config.max_spike, math.ceil(config.warmup * self.plan.total_steps))
        self.step = 0
        self.skipped = set(self.dataset.skipped)
        self.checkpoints = job.output / "checkpoints"
        self.stop_asked = False

    def run(self) -> None:
        """Train to the last step, then write the model."""
        config, plan = self.job.train, self.plan
        signal.signal(signal.SIGTERM, self._ask_to_stop)
        self._resume()
        logger.info(
            "%s: %.1f M parameters, %s pairs (%s an epoch), %d tokens, %d steps of %d epochs from step %d, %s on %s x %d",
            config.model,
            sum(parameter.numel() for parameter in self.model.parameters()) / 1e6,
            f"{len(self.dataset):,}",
            f"{plan.total_samples // config.epochs:,}",
            self.tokenizer.vocab_size,
            plan.total_steps,
            config.epochs,
            self.step,
            config.precision,
            self.device,
            distributed.world_size(),
        )
        self.model.train()
        flops = StepFlops(self.model.config, self.device, config.precision)
        with (
            CheckpointWriter(self.checkpoints, config.keep_checkpoints) as self.writer,
            MetricsLog(self.job.output, plan, config.log_every, flops) as journal,
        ):
            place = (distributed.rank(), distributed.world_size())
            self._ask_for_shards()
            source = load_batches(self.dataset, plan, self.step + 1, *place, self.tokenizer)
            for batch in journal.timed(source):
                metrics, stop = self._train_step(batch)
                journal.write(metrics)
                self._ask_for_shards()
                last = self.step == plan.total_steps
                if not last and (stop or self.step % config.checkpoint_every == 0):
                    self._checkpoint(journal)
                if not last and config.evaluate_every and self.step % config.evaluate_every == 0:
                    self._evaluate()
                if stop and not last:
                    self._settle()
                    distributed.broadcast_from_first(None)
                    raise Stopped(f"stopped after step {self.step} of {plan.total_steps}, as asked")
        self._finish()

    def _train_step(self, batch: Batch) -> tuple[dict[str, Any], bool]:
        """One step of the optimizer; returns its row of metrics, and whether any rank was asked to stop."""
        config = self.job.train
        self.step += 1
        lr = learning_rate(self.step, self.plan.total_steps, config)
        self._count_skipped(batch)

        assert batch.tokens_BL is not None
        tokens_BL = batch.tokens_BL
        try:
            outcome = self._loss(batch, tokens_BL)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise self._out_of_memory(batch, tokens_BL, error) from error
        grad_norm = gradient_norm(self.model)
        counts = [float(outcome.image_hits), float(outcome.text_hits), float(self.stop_asked), *self.health.cosines()]
        counts.append(float((tokens_BL.argmax(dim=1) + 1).sum()))
        loss, image_hits, text_hits, stop, image_cosine, text_cosine, tokens = distributed.sum_over_ranks(
            [float(outcome.loss.detach()), *counts], self.device
        )
        if not (math.isfinite(loss) and math.isfinite(float(grad_norm))):
            raise self._diverged(f"loss {loss}, gradient norm {float(grad_norm)}: not finite")
        update(self.model, self.optimizer, lr, grad_norm, config)
        row = {
            "step": self.step,
            "samples_seen": self.plan.samples_seen(self.step),
            "loss": loss,
            "lr": lr,
            "logit_scale": float(self.model.logit_scale.detach()),
            "grad_norm": float(grad_norm),
            "image_to_text_recall": image_hits / outcome.pairs,
            "text_to_image_recall": text_hits / outcome.pairs,
            "image_mean_cosine": image_cosine / distributed.world_size(),
            "text_mean_cosine": text_cosine / distributed.world_size(),
            "tokens": int(tokens),
        }
        if problem := self.health.problem(row, outcome.pairs):
            raise self._diverged(problem)
        return row, stop > 0

    def _loss(self, batch: Batch, tokens_BL: Tensor) -> StepOutcome:
        """Put a batch through both towers and back."""
        config = self.job.train
        pixels_BSS3 = torch.from_numpy(batch.pixels_BSS3).to(self.device, non_blocking=True)
        if config.augment == AugmentConfig():
            images_B3SS = normalize_pixels(pixels_BSS3)
        else:
            pixels_B3SS = pixels_BSS3.permute(0, 3, 1, 2).contiguous().float() / 255
            pixels_B3SS = augment(pixels_B3SS, config.augment, self.job.seed, batch.epoch, batch.samples)
            images_B3SS = normalize(pixels_B3SS).contiguous(memory_format=torch.channels_last)
        share_done = self.step / self.plan.total_steps
        kept_BK = draw_kept_patches(config, self.model.config, self.job.seed, batch.epoch, batch.samples, share_done)
        if kept_BK is not None:
            kept_BK = kept_BK.to(self.device)
        return backward(self.forward, images_B3SS, tokens_BL.to(self.device), config, kept_BK)

    def _count_skipped(self, batch: Batch) -> None:
        """Note samples that could not be read; too many of them are a broken dataset."""
        self.skipped.update(batch.skipped)
        total = len(self.dataset) + len(self.dataset.skipped)
        if len(self.skipped) > self.job.train.max_skipped * total:
            example = min(self.skipped, key=lambda s: (s.shard, s.key))
            raise ContractError(
                f"{len(self.skipped)} of {total} samples cannot be read, more than max_skipped = "
                f"{self.job.train.max_skipped}; one is {example.key} of {example.shard}: {example.reason}"
            )
        if len(batch.captions) == 0:
            raise ContractError(f"no sample of step {self.step} can be read on rank {distributed.rank()}")

    def _diverged(self, what: str) -> TrainingDiverged:
        self._settle()
        kept = sorted(path.name for path in self.checkpoints.glob("step-*"))
        good = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint before it"
        return TrainingDiverged(f"step {self.step}: {what}; {good}")

    def _out_of_memory(self, batch: Batch, tokens_BL: Tensor, error: BaseException) -> ConfigError:
        """What to do, after smaller batches were tried on this rank alone."""

        def attempt(pairs: int) -> None:
            side = self.preprocess.image_size
            images_B3SS = torch.zeros(pairs, side, side, 3, device=self.device).permute(0, 3, 1, 2)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.job.train.precision == "bf16"):
                features = self.model(images_B3SS, tokens_BL[:pairs].to(self.device))
            (features[0].sum() + features[1].sum()).backward()

        pairs = len(batch.captions)
        fits = find_largest_batch(self.model, self.optimizer, pairs, attempt)
        ranks = distributed.world_size()
        remedy = f"{fits} fit: set batch_size = {fits * ranks}" if fits else "not even one fits: take a smaller model"
        reason = str(error).splitlines()[0]
        return ConfigError(f"step {self.step}: memory does not hold {pairs} pairs a rank ({reason}); {remedy}")

    def _train_tokenizer(self, context_length: int) -> Tokenizer:
        def texts() -> Iterator[str]:
            yield from self.job.train.prompts
            yield from self.dataset.captions()

        return make_tokenizer(self.job.train.vocabulary, texts(), self.job.train.vocab_size, context_length)

    def _ask_for_shards(self) -> None:
        """Let go of the shards that were read, and have those that come next brought here.

        The sums of a step say that every rank has read all of it, so rank 0 speaks for them.
        """
        if self.wishes is None or self.step == self.plan.total_steps:
            return
        first = self.step + 1
        soon = self.plan.shards_of(first, first + READ_AHEAD)
        self.dataset.files.close(keep=frozenset(soon))
        if distributed.rank() == 0:
            self.wishes.tell(first, soon)

    # Stop and go ------------------------------------------------------------------------------------------------------

    def _ask_to_stop(self, signum: int, frame: object) -> None:
        self.stop_asked = True

    def _resume(self) -> None:
        """Go on from the newest valid checkpoint; metrics.jsonl is cut back to what it held then."""
        metrics = self.job.output / "metrics.jsonl"
        found = None
        if distributed.rank() == 0:
            found = find_newest_checkpoint(
                self.checkpoints, self.resumable, metrics.stat().st_size if metrics.exists() else 0
            )
            with metrics.open("ab") as file:
                file.truncate(found[1]["metrics_bytes"] if found else 0)
        found = distributed.broadcast_from_first(found)
        if found is None:
            return
        path, state = found
        restore_checkpoint(path, self.model, self.optimizer)
        self.step = state["step"]
        self.skipped.update(Skipped(**item) for item in state["skipped"])
        logger.info("resumed from %s", path.name)

    def _all_skipped(self) -> list[dict[str, str]]:
        merged = set().union(*distributed.gather_objects(self.skipped))
        return [asdict(item) for item in sorted(merged, key=lambda s: (s.shard, s.key))]

    def _checkpoint(self, journal: MetricsLog) -> None:
        skipped = self._all_skipped()
        if distributed.rank() == 0:
            state = {"job": self.resumable, "metrics_bytes": journal.settle(), "skipped": skipped}
            self.writer.save(self.step, self.model, self.optimizer, state)

    def _evaluate(self) -> None:
        """Measure the model as it is on the suite."""
        assert self.job.suite is not None
        loaded = LoadedModel(self.model, self.tokenizer, self.preprocess, self.model.config, self.device)
        found = evaluate_interim(loaded, self.job.suite, self.job.output / "suite", self.step)
        if distributed.rank() == 0:
            with (self.job.output / "evidence-suite.jsonl").open("a", encoding="utf-8") as file:
                file.write(canonical_json({"step": self.step, **found}) + "\n")
            figures = ", ".join(f"{name} {value:.1%}" for name, value in found.items())
            logger.info("suite after step %d: %s", self.step, figures)

    def _settle(self) -> None:
        """Wait until the newest checkpoint is on disk."""
        self.writer.wait()

    def _finish(self) -> None:
        skipped = self._all_skipped()
        if distributed.rank() == 0:
            output = self.job.output
            write_atomically(output / "skipped.json", canonical_json(skipped) + "\n")
            save_model(output, self.model, self.tokenizer, self.preprocess)
            done = {
                "job": self.digest,
                "precision": self.job.train.precision,
                "steps": self.step,
                "samples": len(self.dataset),
                "samples_seen": self.plan.samples_seen(self.step),
                "skipped": len(skipped),
                "files": {name: file_sha256(output / name) for name in OUTPUTS},
            }
            write_atomically(output / "done.json", canonical_json(done) + "\n")
            logger.info(
                "done: %s steps, %s samples seen, %d skipped", self.step, f"{done['samples_seen']:,}", len(skipped)
            )
        self.dataset.close()
        distributed.broadcast_from_first(None)


def _stop_at_once(signum: int, frame: object) -> None:
    raise Stopped("stopped before the first step, as asked")


def _set_up_torch(config: TrainConfig) -> None:
    """Make torch give the same bits again."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to be deterministic
    torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(True)
    # A check of torch's own kernels, at a cost:
    deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]


def resolve_precision(asked: Precision, device: torch.device) -> Precision:
    """What `auto` means on a device. A processor without bf16 arithmetic takes three times as long in bf16 as in fp32."""
    if asked != "auto":
        return asked
    cpu = (torch.cpu._is_avx512_bf16_supported, torch.cpu._is_amx_tile_supported)
    return "bf16" if device.type == "cuda" or any(check() for check in cpu) else "fp32"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
