"""Contrastive training, from shards to a finished model: `python -m training.train JOB.json`.

Several ranks: `python -m training.launch N -m training.train JOB.json`.

JOB.json is a `Job`. The job writes into its output: model.safetensors, model.json, tokenizer.json, metrics.jsonl (one row
per step, no clocks), skipped.json, evidence-throughput.jsonl (clocks), checkpoints/ and, last, done.json. Until then,
prepared/ holds what the next start reads instead of computing it. Started again, the job resumes from its newest valid
checkpoint and ends in the same bits. A finished job returns at once.

Exit codes: 0 done; 2 config; 3 the shards break their contract; 4 loss or gradients not finite; 75 stopped (SIGTERM, after
a checkpoint), parent process ended, another trainer holds the output, or a disk, GPU or rank failed; 1 anything else.
torchrun always exits with 1, so failure.json in the output holds the code and the message of a deliberate error.
"""

import logging
import math
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.utils.deterministic as deterministic

from dataops.digest import canonical_json, file_sha256
from dataops.errors import ConfigError, ContractError, TrainingDiverged
from training import distributed, preparation
from training.config import Precision, TrainConfig, load_model_config
from training.data.loader import READ_AHEAD, Batch, Dataset, load_batches
from training.data.sampling_plan import Plan
from training.data.shard_files import ShardRequests
from training.job import Job, Stopped, is_done, lock_output, prepared_folder, resolve_device, run_command
from training.loop.checkpointing import resume, write_checkpoint
from training.loop.health import HealthMonitor
from training.loop.initial_model import build_initial_model, draw_kept_patches
from training.loop.interim_evaluation import evaluate_interim, is_evaluated, is_evaluation_due
from training.loop.loss import StepOutcome
from training.loop.metrics_log import MetricsLog, StepFlops
from training.loop.optim import build_optimizer, learning_rate
from training.loop.out_of_memory import describe_out_of_memory, is_out_of_memory
from training.loop.skipped_samples import SkippedSamples
from training.loop.step import backward, gradient_norm, prepare_images, update
from training.loop.training_run import TrainingRun
from training.model.checkpoint import MODEL_FILES, CheckpointWriter, save_model, write_atomically
from training.model.preprocess import Preprocess

logger = logging.getLogger("training.train")

OUTPUTS = (*MODEL_FILES, "metrics.jsonl", "skipped.json")


def main(arguments: list[str]) -> int:
    """Run the job file that the command line names, and return the exit code."""
    handler = signal.signal(signal.SIGTERM, _stop_at_once)  # until there is something to checkpoint
    try:
        return run_command(arguments, Job, train)
    finally:
        signal.signal(signal.SIGTERM, handler)


def train(job: Job) -> None:
    """Train the model of a job, unless it is done; all ranks together."""
    device = resolve_device(job.train.device)
    _set_up_torch(job.train)
    distributed.join(device, allow_network=job.train.allow_network)
    with lock_output(job.output):
        if is_done(job.output, job.digest()):
            return
        run = set_up(job, device)
        signal.signal(signal.SIGTERM, run.request_stop)
        try:
            resume(run)
            _log_start(run)
            run_steps(run)
            finish(run)
        finally:
            # The handler holds the run, which must end before the ranks part: see training.job.run_command.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)


# Set-up ---------------------------------------------------------------------------------------------------------------


def set_up(job: Job, device: torch.device) -> TrainingRun:
    """Open the data and build tokenizer, model and optimizer, as they are before the first step.

    Raises:
        ConfigError: the settings contradict each other, the data or the number of ranks.
        ContractError: a shard is damaged, or no shard has a pair.
    """
    config = job.train.model_copy(update={"precision": resolve_precision(job.train.precision, device)})
    if config.evaluate_every and job.suite is None:
        raise ConfigError("evaluate_every: the job names no suite")
    preparation.check_shards(job)
    model_config = load_model_config(config.model)
    side, context_length = model_config.vision_cfg.image_size, model_config.text_cfg.context_length

    index = preparation.prepare_index(job)
    shards = list(job.shards)
    dataset = Dataset(shards, side, config.cache_bytes, config.crop_area, job.arriving, index=index)
    plan = preparation.prepare_plan(job, config, index)
    shard_requests = ShardRequests(dataset.files, plan, config.shard_cache_bytes) if job.arriving else None
    _check_batch_size(plan)
    tokenizer = preparation.prepare_tokenizer(job, dataset, context_length)

    torch.manual_seed(job.seed)  # decides the first weights; nothing after them draws from torch's generator
    model = build_initial_model(config, model_config.with_vocab_size(tokenizer.vocab_size))
    distributed.synchronize_batch_norm(model, device)
    model.to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = build_optimizer(model, config)
    return TrainingRun(
        job=job,
        config=config,
        device=device,
        dataset=dataset,
        plan=plan,
        shard_requests=shard_requests,
        tokenizer=tokenizer,
        preprocess=Preprocess(side),
        model=model,
        forward=distributed.parallelize(model, device),
        optimizer=optimizer,
        digest=job.digest(),
        resume_digest=job.digest(placement=False),
        health=HealthMonitor(model, config.max_spike, math.ceil(config.warmup * plan.total_steps)),
        skipped=SkippedSamples(dataset, config.max_skipped),
    )


def _set_up_torch(config: TrainConfig) -> None:
    """Make torch give the same bits at each run."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to be deterministic
    torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(True)
    # This checks torch's own kernels, at a cost.
    deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """Return bf16 or fp32 for `auto`: bf16 on CUDA and on CPUs with bf16 arithmetic, since others are slower in it."""
    if precision != "auto":
        return precision
    cpu = (torch.cpu._is_avx512_bf16_supported, torch.cpu._is_amx_tile_supported)
    return "bf16" if device.type == "cuda" or any(check() for check in cpu) else "fp32"


def _check_batch_size(plan: Plan) -> None:
    ranks = distributed.world_size()
    if plan.smallest_batch < 2 * ranks:
        remedy = "batch_size" if plan.sampling is None else "batch_size, or filter.balance.max_per_query"
        raise ConfigError(f"{plan.smallest_batch} pairs a step are too few for {ranks} ranks: raise {remedy}")


def _log_start(run: TrainingRun) -> None:
    config, plan = run.config, run.plan
    logger.info(
        "%s: %.1f M parameters, %s pairs (%s an epoch), %d tokens, %d steps of %d epochs from step %d, %s on %s x %d",
        config.model,
        sum(parameter.numel() for parameter in run.model.parameters()) / 1e6,
        f"{len(run.dataset):,}",
        f"{plan.total_samples // config.epochs:,}",
        run.tokenizer.vocab_size,
        plan.total_steps,
        config.epochs,
        run.step,
        config.precision,
        run.device,
        distributed.world_size(),
    )


# Loop -----------------------------------------------------------------------------------------------------------------


def run_steps(run: TrainingRun) -> None:
    """Take all steps that are left, with their log rows, checkpoints and interim evaluations.

    Raises:
        Stopped: a rank received SIGTERM; a checkpoint is on disk.
        ContractError: too many samples cannot be read.
        TrainingDiverged: the model does not learn any more.
    """
    config, plan = run.config, run.plan
    run.model.train()
    flops = StepFlops(run.model.config, run.device, config.precision)
    with (
        CheckpointWriter(run.checkpoints, config.keep_checkpoints) as writer,
        MetricsLog(run.job.output, plan, config.log_every, flops) as log,
    ):
        run.skipped.check()
        _request_shards(run)
        if is_evaluation_due(run) and not is_evaluated(run):  # it was stopped in the evaluation
            evaluate_interim(run)
        rank, ranks = distributed.rank(), distributed.world_size()
        for batch in log.timed(load_batches(run.dataset, plan, run.step + 1, rank, ranks, run.tokenizer)):
            agreed = agree(run, batch)
            if agreed.stop:
                _stop(run, writer, log)
            run.step += 1
            log.write(train_step(run, batch, agreed.pairs_of_ranks, writer))
            writer.check()
            _request_shards(run)
            is_due = is_evaluation_due(run)
            if (run.step % config.checkpoint_every == 0 and run.step < plan.total_steps) or is_due:
                write_checkpoint(run, writer, log)
            if is_due:
                evaluate_interim(run)


class Agreement(NamedTuple):
    """The facts about a step that every rank must have before it."""

    pairs_of_ranks: list[int]
    """Pairs of each rank."""
    stop: bool
    """True if any rank received SIGTERM."""


def agree(run: TrainingRun, batch: Batch) -> Agreement:
    """Exchange the facts about the next step on the host; all ranks together.

    Raises: ContractError if too many samples of all ranks, or all of one rank's batch, could not be read.
    """
    own = [len(batch.captions), run.stop_requested, run.skipped.add(batch)]
    pairs, stops, skipped = zip(*distributed.gather_integers(own), strict=True)
    if any(skipped):
        run.skipped.check()
    if 0 in pairs:
        raise ContractError(f"no sample of step {run.step + 1} can be read on rank {pairs.index(0)}")
    return Agreement(list(pairs), any(stops))


def train_step(
    run: TrainingRun, batch: Batch, pairs_of_ranks: Sequence[int], writer: CheckpointWriter
) -> dict[str, Any]:
    """Take one step of the optimizer; return its row of metrics.jsonl.

    Raises:
        ConfigError: memory does not hold the step.
        TrainingDiverged: see run_steps.
    """
    assert batch.tokens_BL is not None
    try:
        outcome = compute_gradients(run, batch, pairs_of_ranks)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        is_resnet = isinstance(run.model.config.vision_cfg.layers, tuple)
        pairs = len(batch.captions)
        raise describe_out_of_memory(error, run.config, run.step, pairs, is_resnet=is_resnet) from error
    grad_norm = gradient_norm(run.model)
    counts = [float(outcome.image_hits), float(outcome.text_hits), *run.health.cosines()]
    counts.append(float((batch.tokens_BL.argmax(dim=1) + 1).sum()))
    loss, image_hits, text_hits, image_cosine, text_cosine, tokens = distributed.sum_over_ranks(
        [float(outcome.loss.detach()), *counts], run.device
    )
    if not (math.isfinite(loss) and math.isfinite(float(grad_norm))):
        raise _diverged(run, writer, f"loss {loss}, gradient norm {float(grad_norm)}: not finite")
    lr = learning_rate(run.step, run.plan.total_steps, run.config)
    update(run.model, run.optimizer, lr, grad_norm, run.config)
    row = {
        "step": run.step,
        "samples_seen": run.plan.samples_seen(run.step),
        "loss": loss,
        "lr": lr,
        "logit_scale": float(run.model.logit_scale.detach()),
        "grad_norm": float(grad_norm),
        "image_to_text_recall": image_hits / outcome.pairs,
        "text_to_image_recall": text_hits / outcome.pairs,
        "image_mean_cosine": image_cosine / distributed.world_size(),
        "text_mean_cosine": text_cosine / distributed.world_size(),
        "tokens": int(tokens),
    }
    if problem := run.health.find_problem(row, outcome.pairs):
        raise _diverged(run, writer, problem)
    return row


def compute_gradients(run: TrainingRun, batch: Batch, pairs_of_ranks: Sequence[int]) -> StepOutcome:
    """Pass a batch through both towers, and add the gradients of its loss to the parameters' own."""
    assert batch.tokens_BL is not None
    config, seed = run.config, run.job.seed
    images_B3SS = prepare_images(batch, config, seed, run.device)
    share_done = run.step / run.plan.total_steps
    kept_BK = draw_kept_patches(config, run.model.config, seed, batch.epoch, batch.samples, share_done)
    if kept_BK is not None:
        kept_BK = kept_BK.to(run.device)
    return backward(run.forward, images_B3SS, batch.tokens_BL.to(run.device), config, kept_BK, pairs_of_ranks)


def _stop(run: TrainingRun, writer: CheckpointWriter, log: MetricsLog) -> None:
    if run.step > run.saved_step:
        write_checkpoint(run, writer, log)
    writer.wait()
    distributed.broadcast_from_first(None)
    raise Stopped(f"stopped after step {run.step} of {run.plan.total_steps}, as asked")


def _diverged(run: TrainingRun, writer: CheckpointWriter, problem: str) -> TrainingDiverged:
    writer.wait()
    kept = sorted(path.name for path in run.checkpoints.glob("step-*"))
    good = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint before it"
    return TrainingDiverged(f"step {run.step}: {problem}; {good}")


def _request_shards(run: TrainingRun) -> None:
    """Close the shards that were read, and request those that the next steps read.

    The sums over ranks in a step mean that every rank has read its samples, so rank 0 requests for all.
    """
    if run.shard_requests is None or run.step == run.plan.total_steps:
        return
    first = run.step + 1
    soon = run.plan.shards_of(first, first + READ_AHEAD)
    run.dataset.files.close(keep=frozenset(soon))
    if distributed.rank() == 0:
        run.shard_requests.write(first, soon)


# End ------------------------------------------------------------------------------------------------------------------


def finish(run: TrainingRun) -> None:
    """Write the finished model and, last, done.json."""
    skipped = run.skipped.gather()
    if distributed.rank() == 0:
        output = run.job.output
        write_atomically(output / "skipped.json", canonical_json(skipped) + "\n")
        save_model(output, run.model, run.tokenizer, run.preprocess)
        done = {
            "job": run.digest,
            "precision": run.config.precision,
            "steps": run.step,
            "samples": len(run.dataset),
            "samples_seen": run.plan.samples_seen(run.step),
            "skipped": len(skipped),
            "files": {name: file_sha256(output / name) for name in OUTPUTS},
        }
        write_atomically(output / "done.json", canonical_json(done) + "\n")
        logger.info("done: %s steps, %s samples seen, %d skipped", run.step, f"{done['samples_seen']:,}", len(skipped))
    run.dataset.close()
    distributed.broadcast_from_first(None)
    if distributed.rank() == 0:
        shutil.rmtree(prepared_folder(run.job), ignore_errors=True)


def _stop_at_once(signum: int, frame: object) -> None:
    signal.signal(signum, signal.SIG_IGN)  # a second one must not break the end that the first one began
    raise Stopped("stopped before the first step, as asked")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
