"""The job that scores images with a CLIP model: `python -m plugins.scores.job JOB.json`.

A job computes one of two scores:

clip_score   cosine of the image's and the caption's feature
aesthetic    a linear head over the image's unit-norm feature (the head's `weight` and `bias`)

Shape suffixes: N rows of a shard, B batch, L tokens, D embed_dim.
"""

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pyarrow as pa
import torch
from pydantic import Field, PositiveInt
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dataops.config import FrozenModel
from dataops.errors import ContractError
from dataops.parquet import encode_table, read_parquet
from dataops.regular_files import open_regular
from dataops.shards.tar import read_samples
from dataops.store import FolderStore
from tasks.curate.score import SCORES, TO_SCORE
from training.evaluation.encode import EvaluatedModel, encode_captions, encode_shard_images
from training.job import JobFile, resolve_device, run_command, run_process
from training.model.load import load_any

logger = logging.getLogger(__name__)


class ShardToScore(FrozenModel):
    """One shard of a job."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    """Name of the result: `<name>.parquet`."""
    tar: Path
    """Path of the shard."""
    extension: str
    """Extension of the images' members."""
    rows: Path
    """Parquet file with the columns TO_SCORE."""


class ScoreJob(JobFile):
    """The fields of a job file."""

    model: Path
    """Folder or file of the model: see training/model/load.py."""
    head: Path | None = None
    """Safetensors file with `weight` (D,) or (1, D) and optionally `bias` (1,): score by it, without captions."""
    shards: tuple[ShardToScore, ...]
    """Shards, in order; those that have a result are skipped."""
    output: Path
    """Folder that receives the results."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda if torch sees it, else cpu."""
    threads: PositiveInt | None = None
    """Threads that decode and, on the CPU, encode; None: one a core. The scores are the same on any number."""


def run_job(job: ScoreJob) -> None:
    """Score each shard that has no result yet.

    Raises: ContractError if a shard, the model or the head is invalid.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    head_D = None if job.head is None else read_head(job.head)
    device, store = resolve_device(job.device).type, FolderStore(job.output)
    loaded = load_any(job.model, device=device)
    for done, shard in enumerate(job.shards):
        name = f"{shard.name}.parquet"
        if store.size(name) is None:
            started = time.perf_counter()
            scores = score_shard(loaded, shard, head_D, device=device, threads=job.threads)
            store.put(name, encode_table(scores).to_pybytes())
            rate = scores.num_rows / (time.perf_counter() - started)
            logger.info(
                "shard %s: scored %d, %d unreadable, %.0f/s (%d of %d)",
                shard.name, scores.num_rows, scores.column(1).null_count, rate, done + 1, len(job.shards),
            )  # fmt: skip


def score_shard(
    loaded: EvaluatedModel,
    shard: ShardToScore,
    head: tuple[Tensor, Tensor] | None = None,
    *,
    device: str = "cpu",
    threads: int | None = None,
) -> pa.Table:
    """Return the scores (SCORES) of the rows of a shard, in their order.

    Args:
        head: weights (D,) and bias (), float64; None: the cosine with the caption.
    """
    rows = read_parquet(shard.rows, str(shard.rows)).cast(TO_SCORE)
    text_ND = None if head else encode_captions(loaded, rows["caption"].to_pylist(), device, threads)
    score_N = torch.full((rows.num_rows,), torch.nan, dtype=torch.float64)
    for positions, feature_BD in encode_rows(loaded, shard, rows, device, threads):
        if head is None:
            assert text_ND is not None
            score_N[positions] = (feature_BD * text_ND[positions]).sum(dim=1)
        else:
            weight_D, bias = head
            if len(weight_D) != feature_BD.shape[1]:
                sizes = f"{len(weight_D)} features, the model has {feature_BD.shape[1]}"
                raise ContractError(f"the head is for {sizes}: name a head of this model")
            score_N[positions] = feature_BD @ weight_D + bias
    scores = [None if score != score else score for score in score_N.tolist()]
    return pa.table({"id": rows["id"].combine_chunks(), "score": pa.array(scores, pa.float32())}, schema=SCORES)


def encode_rows(
    loaded: EvaluatedModel, shard: ShardToScore, rows: pa.Table, device: str, threads: int | None
) -> Iterator[tuple[list[int], Tensor]]:
    """Yield numbers of rows (TO_SCORE) and the features of their images, as encode_shard_images does.

    Raises: ContractError if the shard lacks the sample of a row.
    """
    row_of = {key: row for row, key in enumerate(rows["key"].to_pylist())}
    with open_regular(shard.tar) as file:
        images = (
            (row_of.pop(key), _member(members, shard, key))
            for key, members in read_samples(file, str(shard.tar))
            if key in row_of
        )
        yield from encode_shard_images(loaded, images, device, threads)
    if row_of:
        raise ContractError(f"{shard.tar}: has no sample {next(iter(row_of))!r}, which the job lists")


def _member(members: dict[str, bytes], shard: ShardToScore, key: str) -> bytes:
    if shard.extension not in members:
        raise ContractError(f"{shard.tar}: sample {key!r} has no member {shard.extension!r}")
    return members[shard.extension]


def read_head(path: Path) -> tuple[Tensor, Tensor]:
    """Read the weights (D,) and bias () of a linear head, float64.

    Raises: ContractError that names the file and what it must hold.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ContractError(f"{path}: not a safetensors file: {error}") from error
    weight, bias = tensors.pop("weight", None), tensors.pop("bias", torch.zeros(1))
    if weight is None or tensors or weight.numel() != max(weight.shape, default=0) or bias.numel() != 1:
        raise ContractError(f"{path}: a head holds `weight` (D,) or (1, D) and `bias` (1,), and nothing else")
    if not (weight.isfinite().all() and bias.isfinite()):
        raise ContractError(f"{path}: `weight` or `bias` is not finite, so no image would have a score")
    return weight.double().flatten(), bias.double().squeeze()


def main(arguments: list[str]) -> int:
    """Run the job file that the command line names, and return the exit code."""
    return run_command(arguments, ScoreJob, run_job)


if __name__ == "__main__":
    run_process(main)
