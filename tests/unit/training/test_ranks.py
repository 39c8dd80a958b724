"""Two gloo ranks, which believe to be on two machines, train the same model as one process."""

import json
import shutil

import pytest

from dataops.digest import file_sha256
from tests.job_processes import Ranks
from tests.supplied_shards import dataset, job_of, size_of, supply
from tests.trainings import assert_same_training, output_of, rows_of, run_training, with_suite

pytestmark = [pytest.mark.usefixtures("process_state"), pytest.mark.xdist_group("ranks")]
__all__ = ["dataset"]  # a fixture


@pytest.mark.timeout(400)
def test_two_ranks_train_as_one_process(make_job, suite, dataset, tmp_path):
    """fp32, 25 pairs in batches of 8 and 9: the ranks' shares are unequal, and batch-norm sees all of them.

    The jobs: a ResNet; a ViT with everything that works on parts of a batch, where only one rank's share of 9 pairs
    exceeds the gradient cache; one whose shards arrive and leave; one that a single process began; and one with a wrong
    config.
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
    undisturbed, begun = (with_suite(make_job(name, keep_checkpoints=9, **often), suite) for name in "ab")
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
        ranks = [Ranks(job, 2, machines=2) for job in (*both.values(), begun, wrong)]
        ended = [each.wait() for each in ranks]
    assert ended == [[0, 0]] * 4 + [[2, 2]]
    for tower, job in alone.items():
        assert_same_training(job, both[tower])
    curves = [
        [json.loads(line) for line in (output_of(job) / "holdout.jsonl").read_text().splitlines()]
        for job in (alone["vit"], both["vit"])
    ]
    for row, expected in zip(*curves, strict=True):
        assert row == pytest.approx(expected, rel=1e-3)
    assert "resumed from step-000004" in begun.with_suffix(".log").read_text()
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
