"""Two gloo ranks write the same bytes as one process."""

import json

import pytest

from dataops import plugins
from tests.colour_sets import COLOURS, NAMES, content, png, shown, write_set
from tests.job_processes import Ranks, run_job
from tests.small_model import write_model
from training import train
from training.evaluate import main
from training.evaluation.suite import Suite
from training.evaluation.task import PROMPTS, Task

pytestmark = pytest.mark.xdist_group("ranks")
PROTOCOLS = tuple(name for name in ("linear_probe", "prompts") if name in {PROMPTS, *plugins.load("protocols")})


@pytest.fixture
def job(tmp_path):
    """70 images are three batches on the CPU; one cannot be decoded."""
    shades = [
        {**shown(name, name), "png": png(tuple(v * n // 14 for v in COLOURS[name]))}
        for n in range(14)
        for name in NAMES
    ]
    root = write_set(tmp_path / "colours", [*shades, {"png": b"broken", "cls": b"0"}], templates=("{c}", "a {c} thing"))
    write_set(root, shades[:40], "train")
    captions = [{"png": row["png"], "txt": f"{number}\nnumber {number}".encode()} for number, row in enumerate(shades)]
    write_set(tmp_path / "captions", captions)
    tasks = (
        Task(name="colours", kind="classification", root=str(root), train_split="train", protocols=PROTOCOLS),
        Task(name="captions", kind="retrieval", root=str(tmp_path / "captions")),
    )
    checkpoint = write_model(tmp_path / "checkpoint", NAMES)

    def written(name):
        values = {
            "checkpoint": str(checkpoint),
            "suite": Suite(name="s", tasks=tasks).model_dump(mode="json"),
            "output": str(tmp_path / name),
            "features": str(tmp_path / name / "features"),
        }
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(values))
        return path

    return written


def run_evaluation(*arguments):
    train.main = main
    run_job(*arguments)


@pytest.mark.timeout(400)
def test_two_ranks_write_what_one_process_writes(job, tmp_path):
    assert main([str(job("one"))]) == 0
    assert Ranks(job("two"), 2, target=run_evaluation).wait() == [0, 0]
    assert content(tmp_path / "one") == content(tmp_path / "two")
