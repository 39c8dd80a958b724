"""Two gloo ranks, on two machines of torchrun, train the same model as one process."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from dataops.digest import file_sha256
from dataops.home import CHECKOUT
from dataops.process import ELSEWHERE
from tasks.train.stage import build_launcher
from tests.kills.seaweed import free_port
from tests.supplied_shards import dataset, job_of, size_of, supply
from tests.trainings import assert_same_training, output_of, rows_of, run_training, with_suite
from training.config import TrainConfig

pytestmark = pytest.mark.usefixtures("process_state")
__all__ = ["dataset"]  # a fixture


def on_two_machines(jobs, folder):
    """Run two torchrun agents with a rank each; the second has ELSEWHERE set, as on another machine."""
    rendezvous, *ports = [free_port() for _ in range(1 + len(jobs))]
    config = TrainConfig(nnodes="2", rdzv_endpoint=f"127.0.0.1:{rendezvous}", max_restarts=0)
    arguments = [f"{port}={job}" for port, job in zip(ports, jobs, strict=True)]

    def agent(number):
        launcher = build_launcher(config, "k", folder / f"machine-{number}")
        command = [sys.executable, *launcher, "-m", "tests.unit.training.several_jobs", *arguments]
        env = {**os.environ, "PYTHONPATH": str(CHECKOUT), **({ELSEWHERE: "1"} if number else {})}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=env)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(agent, range(2)))


@pytest.mark.timeout(400)
def test_two_ranks_train_as_one_process(make_job, suite, dataset, tmp_path):
    """fp32, 25 pairs in batches of 8 and 9: the ranks' shares are unequal, and batch-norm sees all of them.

    One pair of machines runs all jobs: a ResNet; a ViT with everything that works on parts of a batch, where only one
    rank's share of 9 pairs exceeds the gradient cache; one whose shards
    arrive and leave; one that a single process began; and one with a wrong config, for which torchrun exits with 1 and
    failure.json holds the code of the ranks.
    """
    # SGD-like Adam: a large eps keeps rounding from being blown up where a gradient is all but zero.
    settings = {"epochs": 3, "eps": 1e-3}
    towers = {
        "resnet": {},
        "vit": {
            "loss": "sigmoid",
            "multi_positive": "share",
            "grad_cache": 4,
            "patch_dropout": 0.5,
            "max_bad_steps": 2,
            "holdout": 0.2,
            "keep": "best",
        },
    }
    alone = {tower: make_job(f"{tower}-1", tower, **settings, **more) for tower, more in towers.items()}
    both = {tower: make_job(f"{tower}-2", tower, nproc=2, **settings, **more) for tower, more in towers.items()}
    often = {**settings, "checkpoint_every": 1, "evaluate_every": 6}
    undisturbed, begun = (with_suite(make_job(name, "vit", keep_checkpoints=9, **often), suite) for name in "ab")
    limit = size_of(dataset, 4)
    alone["come"] = job_of(dataset, tmp_path / "here", 0, eps=1e-3)
    both["come"] = job_of(dataset, tmp_path / "come", limit, eps=1e-3, nproc=2)
    wrong = make_job("wrong", nproc=2, model="ViT-Z")
    for job in (*alone.values(), undisturbed):
        assert run_training(job) == 0

    shutil.copytree(output_of(undisturbed), output_of(begun))
    for path in (output_of(begun) / "checkpoints").iterdir():
        if path.name > "step-000004":
            shutil.rmtree(path)
    shutil.rmtree(output_of(begun) / "suite")
    for name in ("done.json", "evidence-suite.jsonl", "model.safetensors"):
        (output_of(begun) / name).unlink()
    begun.write_text(
        begun.read_text().replace(
            '"workers": 1', '"workers": 2, "nproc": 1, "nnodes": "2", "rdzv_endpoint": "127.0.0.1:1"'
        )
    )

    with supply(dataset, both["come"], limit):
        ended = on_two_machines([*both.values(), begun, wrong], tmp_path)
    log = "".join(result.stderr for result in ended)
    assert [result.returncode for result in ended] == [1, 1], log
    for tower, job in alone.items():
        assert_same_training(job, both[tower])
    curves = [
        [json.loads(line) for line in (output_of(job) / "holdout.jsonl").read_text().splitlines()]
        for job in (alone["vit"], both["vit"])
    ]
    for row, expected in zip(*curves, strict=True):
        assert row == pytest.approx(expected, rel=1e-3)
    assert "resumed from step-000004" in log
    assert rows_of(begun)[:4] == rows_of(undisturbed)[:4]
    assert_same_training(undisturbed, begun)
    assert file_sha256(output_of(begun) / "model.safetensors") != file_sha256(
        output_of(undisturbed) / "model.safetensors"
    ), "two ranks sum up in another order: they did train"
    assert json.loads((output_of(begun) / "suite" / "metrics.json").read_text()).keys() == {"colours", "few"}
    (measured,) = (output_of(begun) / "evidence-suite.jsonl").read_text().splitlines()
    assert {name.partition("/")[0] for name in json.loads(measured)} == {"step", "colours", "few"}
    failure = json.loads((output_of(wrong) / "failure.json").read_text())
    assert failure["exit_code"] == 2
    assert "ViT-Z" in failure["message"]
