"""Two gloo ranks under torchrun make the model that one process makes."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tasks.train import torchrun
from tests.unit.training.conftest import with_suite
from training.config import TrainConfig
from training.process import ELSEWHERE
from training.train import main

MakeJob = Callable[..., Path]


def run(job: Path, ranks: int) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    command = [sys.executable, *launcher, "-m", "training.train", str(job)]
    return subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)


def run_on_two_machines(job: Path, folder: Path) -> list[subprocess.CompletedProcess[str]]:
    """An agent of torchrun each, that meet at a port; the second is on a machine where the job's parent is no process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = f"127.0.0.1:{free.getsockname()[1]}"
    config = TrainConfig(nnodes="2", rdzv_endpoint=meeting, max_restarts=0)
    commands = [
        [sys.executable, *torchrun(config, "k", folder / str(n)), "-m", "training.train", str(job)] for n in range(2)
    ]
    with ThreadPoolExecutor() as pool:
        done = [
            pool.submit(
                subprocess.run, command, capture_output=True, text=True, timeout=150, check=False,
                env={**os.environ, **({ELSEWHERE: "1"} if number else {})},
            )
            for number, command in enumerate(commands)
        ]  # fmt: skip
        return [one.result() for one in done]


def output_of(job: Path) -> Path:
    return Path(json.loads(job.read_text())["output"])


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("tower", "more"), [("resnet", {}), ("vit", {"loss": "sigmoid", "grad_cache": 3, "patch_dropout": 0.5})]
)
def test_two_ranks_equal_one_process(make_job: MakeJob, tower: str, more: dict[str, object]) -> None:
    """fp32, 25 pairs in batches of 8 and 9: the ranks' shares are unequal, and batch-norm sees all of them."""
    # SGD-like Adam: a large eps keeps rounding from being blown up where a gradient is all but zero.
    jobs = [make_job(f"{ranks}", tower, epochs=3, nproc=ranks, eps=1e-3, **more) for ranks in (1, 2)]
    for job, ranks in zip(jobs, (1, 2), strict=True):
        result = run(job, ranks)
        assert result.returncode == 0, result.stderr
    one, two = (
        [json.loads(line) for line in (output_of(job) / "metrics.jsonl").read_text().splitlines()] for job in jobs
    )
    assert len(one) == len(two) == 9
    for expected, row in zip(one, two, strict=True):
        row, expected = (
            {n: v for n, v in r.items() if "cosine" not in n} for r in (row, expected)
        )  # of rank's own pairs
        assert row == pytest.approx(expected, rel=1e-3)
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    expected, weights = (load_file(output_of(job) / "model.safetensors") for job in jobs)
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.timeout(180)
def test_one_process_s_checkpoint_goes_on_in_two_without_loss_or_repetition(
    make_job: MakeJob, suite: dict[str, object], tmp_path: Path
) -> None:
    """The same rows as undisturbed, to rounding: so the same samples, each once an epoch, in the same steps."""
    settings = {"epochs": 3, "eps": 1e-3, "checkpoint_every": 1, "evaluate_every": 6}
    undisturbed, job = (with_suite(make_job(name, "vit", **settings), suite) for name in "ab")
    assert main([str(undisturbed)]) == 0
    job.write_text(job.read_text().replace('"epochs": 3', '"epochs": 3, "keep_checkpoints": 9'))
    assert main([str(job)]) == 0
    for path in (output_of(job) / "checkpoints").iterdir():
        if path.name > "step-000004":
            shutil.rmtree(path)
    (output_of(job) / "done.json").unlink()
    (output_of(job) / "evidence-suite.jsonl").unlink()
    job.write_text(
        job.read_text().replace('"workers": 1', '"workers": 2, "nnodes": "2", "rdzv_endpoint": "127.0.0.1:1"')
    )
    results = run_on_two_machines(job, tmp_path)
    assert [result.returncode for result in results] == [0, 0], results[0].stderr + results[1].stderr
    assert any("resumed from step-000004" in result.stderr for result in results)
    expected, rows = (
        [json.loads(line) for line in (output_of(j) / "metrics.jsonl").read_text().splitlines()]
        for j in (undisturbed, job)
    )
    assert rows[:4] == expected[:4]
    assert [(output_of(job) / "suite" / f"rank-{rank}" / "metrics.json").exists() for rank in (0, 1)] == [True, True]
    (measured,) = (output_of(job) / "evidence-suite.jsonl").read_text().splitlines()
    assert {name.partition("/")[0] for name in json.loads(measured)} == {"step", "colours", "few"}
    for one, two in zip(expected, rows, strict=True):
        assert {n: v for n, v in two.items() if "cosine" not in n} == pytest.approx(
            {n: v for n, v in one.items() if "cosine" not in n}, rel=1e-3
        )


@pytest.mark.timeout(180)
def test_an_error_on_any_rank_is_told_in_a_file(make_job: MakeJob, shards: list[Path]) -> None:
    """torchrun ends with 1 whatever its ranks say; failure.json holds the code that they meant."""
    job = make_job("a", nproc=2, model="ViT-Z")
    assert run(job, 2).returncode == 1
    output_of(job).mkdir(exist_ok=True)
    failure = json.loads((output_of(job) / "failure.json").read_text())
    assert failure["exit_code"] == 2
    assert "ViT-Z" in failure["message"]
