"""Contrastive training, from shards to a finished model: `python -m training.train JOB.json`.

Several ranks: `python -m training.launch N -m training.train JOB.json`.

JOB.json is a `Job`. The job writes into its output: model.safetensors, model.json, tokenizer.json,
metrics.jsonl (one row per step, no clocks), skipped.json, evidence-* (clocks), checkpoints/ and,
last, done.json. Until then, prepared/ holds what the next start reads instead of computing it.
Started again, the job resumes from its newest valid checkpoint and ends in the same bits. A
finished job returns at once.

Exit codes: 0 done; 2 config; 3 the shards break their contract; 4 loss or gradients not finite; 75 stopped (SIGTERM, after
a checkpoint), parent process ended, another trainer holds the output, or a disk, GPU or rank failed; 1 anything else.
torchrun always exits with 1, so failure.json in the output holds the code and the message of a deliberate error.
"""

import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import torch
import torch.utils.deterministic as deterministic

from dataops.digest import canonical_json, file_sha256
from dataops.errors import ConfigError
from training import distributed, preparation
from training.checkpoints import CheckpointWriter
from training.compiler import prepare_compiler
from training.config import TrainConfig
from training.data.loader import READ_AHEAD, Batch, Dataset, load_batches
from training.data.sampling_plan import Plan
from training.data.shard_files import ShardRequests
from training.job import (
    RECORDS,
    STUCK_SECONDS,
    Job,
    Stopped,
    StuckWatch,
    is_done,
    is_out_of_memory,
    lock_output,
    prepared_folder,
    resolve_device,
    run_command,
    run_process,
)
from training.loop.checkpointing import (
    is_rollback_due,
    name_processor,
    restore_best,
    resume,
    roll_back,
    write_checkpoint,
)
from training.loop.flops import count_step_flops
from training.loop.health import BadSteps, HealthMonitor, describe_out_of_memory, open_holdout
from training.loop.initial_model import count_kept_patches
from training.loop.inputs import InputMaker, StepInputs, upload_batches
from training.loop.interim_evaluation import (
    HOLDOUT_FILE,
    evaluate_interim,
    is_evaluated,
    is_evaluation_due,
    measure_holdout,
)
from training.loop.metrics_log import MetricsLog
from training.loop.step_recorder import Agreement, DelayedValues, StepRecorder, TakenStep, agree
from training.loop.training_run import SkippedSamples, TrainingRun, build_learner
from training.model.checkpoint import save_model, write_atomically
from training.model.preprocess import Preprocess
from training.model.resnet import ModifiedResNet
from training.model_config import MODEL_FILES
from training.optimizers import count_warmup_steps, learning_rate
from training.sharding import copy_whole, find_part
from training.step_hooks import used_step_hooks

logger = logging.getLogger("training.train")

OUTPUTS = (*MODEL_FILES, "metrics.jsonl", "skipped.json")
SWITCH_SECONDS = 1e-4
"""Time that a thread of the loader keeps the interpreter before the one that launches kernels gets it; Python's own is
5e-3. A launch of a step beside loader threads took 30 to 36 ms with it, and 33 to 44 without, on a CPU."""
OVERFLOWS = 40
"""Steps in a row that fp16 may skip while it looks for a scale of the loss, if max_bad_steps is 0."""


def main(arguments: list[str]) -> int:
    """Run the job file that the command line names, and return the exit code."""
    handler = signal.signal(signal.SIGTERM, _stop_at_once)  # until there is something to checkpoint
    try:
        return run_command(arguments, Job, train)
    finally:
        signal.signal(signal.SIGTERM, handler)


def train(job: Job, stuck_seconds: float = STUCK_SECONDS) -> None:
    """Train the model of a job, unless it is done; all ranks together.

    Args:
        stuck_seconds: least time without a step after which several ranks end.
    """
    try:
        set_up_allocators()
        config = job.train
        is_pool, ranks = config.launch == "work_pool", config.nproc
        device = resolve_device(config.device, "a work pool" if is_pool else f"nproc = {ranks}" if ranks > 1 else None)
        set_up_torch(config, device)
        if config.compile:
            prepare_compiler(device.type)
        distributed.join(device, allow_network=config.allow_network, records=job.output / RECORDS)
        with lock_output(job.output):
            if is_done(job.output, job.digest()):
                return
            run = set_up(job, device)
            signal.signal(signal.SIGTERM, run.request_stop)
            resume(run)
            if run.step == 0:
                for hook in used_step_hooks(run.config):
                    hook.start(run.model, run.config, run.dataset, run.text_features)
            _log_start(run)
            run_steps(run, stuck_seconds)
            finish(run)
    finally:
        # A signal must not break the end of this rank where another one has failed. And the handler holds the run, which
        # must end before the ranks part: see training.job.run_command.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


# Set-up ---------------------------------------------------------------------------------------------------------------


def set_up(job: Job, device: torch.device) -> TrainingRun:
    """Open the data and build tokenizer, model and optimizer, as they are before the first step.

    Raises:
        ConfigError: the settings contradict each other, the data or the number of ranks.
        ContractError: a shard is damaged, or no shard has a pair.
    """
    config = resolve_settings(job.train, device)
    if config.evaluate_every and job.suite is None and not config.holdout:
        raise ConfigError("evaluate_every: the job names no suite")
    preparation.check_shards(job)
    model_config = config.load_dimensions()
    side = model_config.vision_cfg.image_size

    index = preparation.prepare_index(job)
    shards = list(job.shards)
    sizes, weights = (side, config.cache_bytes, config.crop_area), config.captions
    dataset = Dataset(shards, *sizes, job.arriving, caption_weights=weights, index=index)
    plan = preparation.prepare_plan(job, config, index)
    shard_requests = ShardRequests(dataset.files, plan, config.shard_cache_bytes) if job.arriving else None
    _check_batch_size(plan)
    tokenizer = preparation.prepare_tokenizer(job, dataset, model_config)

    hooks = used_step_hooks(config)
    dimensions = model_config.with_vocab_size(tokenizer.vocab_size)
    learner = build_learner(config, dimensions, job.seed, device)
    computed = [hook.compute_features(job, config, learner.model, tokenizer, dataset) for hook in hooks]
    cached = {"has_image_features": dataset.image_features is not None}
    flops = {k: count_step_flops(learner.model, k, **cached) for k in count_kept_patches(config, learner.model.config)}
    return TrainingRun(
        job=job,
        config=config,
        device=device,
        dataset=dataset,
        plan=plan,
        shard_requests=shard_requests,
        tokenizer=tokenizer,
        preprocess=Preprocess(side),
        text_features=next((features for features in computed if features is not None), None),
        learner=learner,
        digest=job.digest(),
        resume_digest=job.digest(placement=False),
        flops=flops,
        health=HealthMonitor(config.max_spike, count_warmup_steps(plan.total_steps, config)),
        skipped=SkippedSamples(dataset, config.max_skipped),
        bad_steps=BadSteps(config.max_bad_steps, config.max_rollbacks) if config.max_bad_steps else None,
        holdout=open_holdout(config, index.measured, plan.total_steps),
    )


def set_up_allocators() -> None:
    """Choose the settings that libraries read once, when a process first uses a GPU, unless the user has chosen them."""
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # the second is its name before torch 2.9
    if not any(name in os.environ for name in names):
        os.environ |= dict.fromkeys(names, "expandable_segments:True")  # batches differ in their tokens
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to be deterministic


def set_up_torch(config: TrainConfig, device: torch.device) -> None:
    """Choose torch's kernels: where the config asks for it, those that give the same bits at each run."""
    is_deterministic = resolve_settings(config, device).deterministic or False
    torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(is_deterministic)
    torch.backends.cudnn.benchmark = not is_deterministic
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # fp32 is fp32
    # This checks torch's own kernels, at a cost.
    deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    if device.type == "cuda":
        sys.setswitchinterval(SWITCH_SECONDS)


def resolve_settings(config: TrainConfig, device: torch.device) -> TrainConfig:
    """Return the config with what it leaves to the machine: precision, determinism, and the limit of skipped steps."""
    config = config.with_precision()
    is_deterministic = device.type == "cpu" if config.deterministic is None else config.deterministic
    found: dict[str, object] = {"deterministic": is_deterministic}
    if config.precision == "fp16" and not config.max_bad_steps:
        found["max_bad_steps"] = OVERFLOWS
    return config.model_copy(update=found)


def _check_batch_size(plan: Plan) -> None:
    ranks = distributed.world_size()
    if plan.smallest_batch < 2 * ranks:
        remedy = "batch_size" if plan.sampling is None else "batch_size, or filter.balance.max_per_query"
        raise ConfigError(f"{plan.smallest_batch} pairs a step are too few for {ranks} ranks: raise {remedy}")


def _log_start(run: TrainingRun) -> None:
    config, plan = run.config, run.plan
    logger.info(
        "%s: %.1f M parameters, %s pairs (%s an epoch), %d tokens, %d steps of %d epochs from step %d, %s on %s x %d",
        " and ".join(_name_towers(run)),
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


def _name_towers(run: TrainingRun) -> list[str]:
    """Return the networks of the towers: the config's model, unless both are of other networks."""
    towers = (getattr(run.model.config.vision_cfg, "architecture", ""), getattr(run.model.config.text_cfg, "kind", ""))
    return [*([] if all(towers) else [run.config.model]), *filter(None, towers)]


# Loop -----------------------------------------------------------------------------------------------------------------


def run_steps(run: TrainingRun, stuck_seconds: float = STUCK_SECONDS) -> None:
    """Take all steps that are left, with their log rows, checkpoints and interim evaluations.

    Raises:
        Stopped: a rank received SIGTERM; a checkpoint is on disk.
        ContractError: too many samples cannot be read.
        ConfigError: memory does not hold a step.
        TrainingDiverged: the model does not learn any more.
    """
    config, plan = run.config, run.plan
    run.model.train()
    with (
        CheckpointWriter(
            run.checkpoints,
            config.keep_checkpoints,
            find_part(run.model),
            is_on_own_disk=config.is_on_cluster,
            rollback_every=config.rollback_every,
        ) as writer,
        MetricsLog(run.job.output, plan, config.log_every, run.device, config.precision) as log,
        ExitStack() as stack,
        StuckWatch(run.job.output, stuck_seconds) as watch,
    ):
        recorder, started = StepRecorder(run, log, writer), run.step
        left = plan.total_steps - run.step
        watched = [hook.watch_steps(run.job, config, left, run.model) for hook in used_step_hooks(config)]
        observers = [stack.enter_context(one) for one in watched]
        run.skipped.check()
        _request_shards(run)
        if _is_measured(run):  # it was stopped in the evaluation
            _evaluate(run, writer, log, measure_holdout)
        if is_evaluation_due(run) and not is_evaluated(run):
            _evaluate(run, writer, log, evaluate_interim)
        if _has_ended(run):
            return
        for batch in log.timed(upload_batches(_load(run), run.device)):
            agreed = agree(run, batch)
            if agreed.stop:
                watch.pause()
                recorder.flush()
                _stop(run, writer, log)
            run.step += 1
            if run.step == started + 2:
                distributed.limit_gpu_waits(run.device, "step")
            recorder.add(launch_step(run, batch.inputs, agreed))
            for observe in observers:
                observe()
            writer.check()
            _request_shards(run)
            watch.end_step(run.step, is_limited=run.shard_requests is None)
            is_last, is_due = run.step == plan.total_steps, is_evaluation_due(run)
            is_measured = _is_measured(run)
            is_kept = is_measured or run.step % config.checkpoint_every == 0 or run.step in plan.kept_steps
            is_saved = is_due or (is_kept and not is_last)
            if is_saved or is_last or is_rollback_due(run):
                watch.pause()
            if is_rollback_due(run):
                recorder.flush()
                roll_back(run, writer, log)
            if is_saved or is_last:
                recorder.flush()
            if is_last and is_rollback_due(run):
                roll_back(run, writer, log)
            if is_saved:
                write_checkpoint(run, writer, log)
            if is_measured:
                _evaluate(run, writer, log, measure_holdout)
            if is_due:
                _evaluate(run, writer, log, evaluate_interim)
            if _has_ended(run):
                return


def _is_measured(run: TrainingRun) -> bool:
    """Return whether the model is measured on the hold-out after the current step."""
    return run.holdout is not None and run.holdout.is_due(run.step)


def _has_ended(run: TrainingRun) -> bool:
    """Return whether the training ends early after the current step, because the hold-out does not get better."""
    if run.holdout is None or not run.holdout.has_ended:
        return False
    if distributed.rank() == 0:
        steps = run.step, run.plan.total_steps
        logger.info("ended after step %d of %d: train.patience = %s", *steps, run.config.patience)
    return True


def _evaluate(
    run: TrainingRun, writer: CheckpointWriter, log: MetricsLog, evaluation: Callable[[TrainingRun], None]
) -> None:
    with log.paused():
        writer.wait()  # a signal ends the evaluation at once
        evaluation(run)


def _load(run: TrainingRun) -> Iterator[Batch]:
    make_inputs = InputMaker(
        run.config,
        run.model.config,
        run.job.seed,
        run.plan.total_steps,
        pin=run.device.type == "cuda",
        text_features=run.text_features,
    )
    rank, ranks = distributed.rank(), distributed.world_size()
    tokenizer = run.tokenizer if run.text_features is None else None
    return load_batches(run.dataset, run.plan, run.step + 1, rank, ranks, tokenizer, make_inputs)


def launch_step(run: TrainingRun, inputs: StepInputs, agreed: Agreement) -> TakenStep:
    """Launch one step of the optimizer; on a GPU this does not wait for it.

    Raises: ConfigError if memory does not hold the step.
    """
    lr = learning_rate(run.step, run.plan.total_steps, run.config)
    try:
        values_V = run.learner.take_step(inputs, lr=lr, pairs_of_ranks=agreed.pairs_of_ranks)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        is_resnet, pairs = isinstance(run.model.visual, ModifiedResNet), len(inputs.pixels_BSS3)
        raise describe_out_of_memory(error, run.config, run.step, pairs, is_resnet=is_resnet) from error
    flops = run.flops[None if inputs.kept_BK is None else inputs.kept_BK.shape[1]]
    operations = flops.total(sum(agreed.pairs_of_ranks), agreed.tokens, agreed.padded)
    return TakenStep(run.step, lr, agreed, operations, DelayedValues(values_V))


def _stop(run: TrainingRun, writer: CheckpointWriter, log: MetricsLog) -> None:
    if run.step > run.saved_step:
        write_checkpoint(run, writer, log)
    writer.wait()
    distributed.broadcast_from_first(None)
    raise Stopped(f"stopped after step {run.step} of {run.plan.total_steps}, as asked")


def _request_shards(run: TrainingRun) -> None:
    """Close the shards that were read, and request those that the next steps read.

    The ranks have agreed on this step, so every rank has read its samples, and rank 0 requests for
    all.
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
    output = run.job.output
    kept_step = restore_best(run) if run.holdout is not None and run.config.keep == "best" else run.step
    model = copy_whole(run.model)
    if distributed.rank() == 0:
        save_model(output, model, run.tokenizer, run.preprocess)
        write_atomically(output / "skipped.json", canonical_json(skipped) + "\n")
        done = {
            "job": run.digest,
            "precision": run.config.precision,
            "processor": name_processor(run.device),
            "steps": run.step,
            "samples": len(run.dataset),
            "samples_seen": run.plan.samples_seen(run.step),
            "skipped": len(skipped),
            "files": {name: file_sha256(output / name) for name in OUTPUTS},
        }
        if run.holdout is not None:
            done["holdout"] = run.holdout.describe(run.step, kept_step)
            done["files"][HOLDOUT_FILE] = file_sha256(output / HOLDOUT_FILE)
        if run.plan.mixture is not None:
            done["datasets"] = run.plan.mixture.describe(run.config.epochs)
        if run.bad_steps is not None:
            done["bad_steps"] = {"skipped": run.bad_steps.skipped, "rollbacks": run.bad_steps.rollbacks}
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
    run_process(main)
