"""`train.launch = "ray"` on a real cluster: two nodes on loopback. `make ray` installs Ray and runs this."""

import json
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dataops.errors import ConfigError, JobFailed
from dataops.snapshot import find_manifest
from dataops.store import FolderStore
from tasks.engine.context import Context, RayCluster
from tasks.engine.stage import Plan, make, plan
from tasks.train import ray_launcher as module
from tasks.train.ray_launcher import train_on_ray
from tasks.train.stage import TRAIN
from tests.integration.test_train_stage import dataset
from tests.servers.ray_nodes import NODE, OTHER, head_node
from tests.unit.training.conftest import VIT
from training.config import TrainConfig

pytest.importorskip("ray", reason="RAY IS NOT INSTALLED: nothing of train.launch = ray is tested; `make ray` does")
pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def place() -> Iterator[RayCluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PAIRMILL_HOME", raising=False)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with head_node() as made:
            made.add_node(**NODE, **OTHER)
            yield RayCluster(str(made.address), max_retries=1)


def planned_in(folder: Path, **train: object) -> tuple[Plan, Context]:
    (folder / "vit.json").write_text(json.dumps(VIT))
    settings = {"model": str(folder / "vit.json"), "batch_size": 8, "vocab_size": 300, "threads": 1, "epochs": 6}
    settings |= {"checkpoint_every": 4, "log_every": 1, "precision": "fp32", "device": "cpu", "launch": "ray"}
    store = FolderStore(folder / "store")
    planned = plan(TRAIN, TrainConfig.model_validate(settings | train), 0, [dataset(store)])
    return planned, Context(store=store, home=folder / "home", run_id="run-1")


LONG = {"epochs": 100_000, "max_spike": 0, "checkpoint_every": 50, "log_every": 20}


def trainers(folder: Path) -> list[int]:
    """Processes of training.train whose job lies in the folder, torchrun among them."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if b"training.train" in words and os.fsencode(folder) in words:
            found.append(int(entry.name))
    return found


def await_(what: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)
    return answer


def checkpoints(folder: Path) -> list[Path]:
    return list(folder.glob("home/jobs/train-*/checkpoints/step-*"))


class Asker:
    """A flow in a process of its own, which may be killed; its log lies in the folder."""

    def __init__(self, folder: Path, place: RayCluster):
        self.log = folder / f"asker-{time.monotonic_ns()}.log"
        spawn = multiprocessing.get_context("spawn")
        self.process = spawn.Process(target=ask, args=(folder, place, self.log))
        self.process.start()

    def said(self, text: str) -> bool:
        return self.log.exists() and text in self.log.read_text()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[RayCluster], Asker]]:
    """Starts flows, and cancels what is left of them, with their trainings."""
    made: list[Asker] = []

    def begin(place: RayCluster) -> Asker:
        made.append(Asker(tmp_path, place))
        return made[-1]

    yield begin
    for asker in made:
        asker.process.terminate()
        asker.process.join(60)


def ask(folder: Path, place: RayCluster, log: Path) -> None:
    logging.basicConfig(filename=log, level=logging.INFO)
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))  # as Prefect's cancel does
    train_on_ray(*planned_in(folder, **LONG), place)


def test_it_makes_the_snapshot_of_this_machine_and_its_lines_come_back(
    place: RayCluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    ours = make(*planned_in(here))
    planned, context = planned_in(there)
    seen: list[tuple[int, int]] = []
    context = Context(store=context.store, home=context.home, progress=lambda n, of, _: seen.append((n, of)))
    with caplog.at_level(logging.INFO):
        theirs = train_on_ray(planned, context, place)
    assert [(p.name, p.sha256) for p in theirs.parts if "evidence" not in p.name] == [
        (p.name, p.sha256) for p in ours.parts if "evidence" not in p.name
    ]
    assert "step 1/" in caplog.text
    assert seen[-1][0] == seen[-1][1]
    assert not trainers(there)


def test_a_config_that_no_machine_can_meet_and_an_error_of_the_trainer_are_raised(
    place: RayCluster, tmp_path: Path
) -> None:
    planned, context = planned_in(tmp_path, nproc=64)
    with pytest.raises(ConfigError, match=r"room for 0 of these: lower train\.nproc"):
        train_on_ray(planned, context, place)
    planned, context = planned_in(tmp_path, batch_size=2)
    with pytest.raises(ConfigError, match="pairs a step are too few"):
        train_on_ray(planned, context, place)


def test_a_killed_flow_leaves_it_and_a_killed_worker_goes_on_and_a_cancel_ends_it(
    place: RayCluster, tmp_path: Path, start: Callable[[RayCluster], Asker]
) -> None:
    first = start(place)
    await_(lambda: checkpoints(tmp_path))
    before = trainers(tmp_path)
    first.process.kill()
    first.process.join()
    again = start(place)
    await_(lambda: again.said("makes it: waiting for that one") and again.said("step "))
    assert set(before) == set(trainers(tmp_path)), "the training went on, and was not started anew"

    (job,) = tmp_path.glob("home/jobs/train-*/job.json")
    os.kill(json.loads(job.read_text())["parent_pid"], signal.SIGKILL)
    await_(lambda: again.said("its worker on Ray died") and again.said("resumed from step-"))
    assert again.process.is_alive()
    await_(lambda: trainers(tmp_path))
    assert not set(before) & set(trainers(tmp_path))

    again.process.terminate()
    again.process.join(60)
    assert again.process.exitcode not in (None, 0)
    await_(lambda: not trainers(tmp_path), 10)
    stopped = json.loads((job.parent / "failure.json").read_text())["message"]
    step = int(stopped.split()[3])
    assert stopped.startswith("stopped after step")
    assert (job.parent / "checkpoints" / f"step-{step:06d}").is_dir(), "it wrote a checkpoint first"


def test_a_worker_that_dies_for_good_is_worth_another_run(
    place: RayCluster, tmp_path: Path, start: Callable[[RayCluster], Asker]
) -> None:
    asker = start(RayCluster(place.address, max_retries=0))
    await_(lambda: checkpoints(tmp_path))
    (job,) = tmp_path.glob("home/jobs/train-*/job.json")
    os.kill(json.loads(job.read_text())["parent_pid"], signal.SIGKILL)
    asker.process.join(60)
    assert asker.process.exitcode == 1
    await_(lambda: not trainers(tmp_path), 10)
    planned, context = planned_in(tmp_path, **LONG)
    assert find_manifest(context.store, "train", planned.key) is None


def test_two_machines_meet_and_the_loss_of_one_costs_what_came_after_the_checkpoint(
    place: RayCluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    planned, context = planned_in(tmp_path, nnodes="2", epochs=60)
    killed: list[int] = []

    def progress(done: int, total: int, line: str) -> None:
        others = list(tmp_path.glob("home/jobs/train-*-1/job.json"))
        if not killed and checkpoints(tmp_path) and others:
            killed.append(json.loads(others[0].read_text())["parent_pid"])
            os.kill(killed[0], signal.SIGKILL)

    context = Context(store=context.store, home=context.home, progress=progress)
    with caplog.at_level(logging.INFO):
        manifest = train_on_ray(planned, context, place)
    assert killed
    assert "cpu x 2" in caplog.text
    assert "resumed from step-" in caplog.text
    rows = [json.loads(line) for line in context.store.read(manifest.path("metrics.jsonl")).splitlines()]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert manifest.facts["final"]["samples_seen"] == rows[-1]["samples_seen"]
    assert not trainers(tmp_path)


def test_a_driver_that_ends_is_a_lost_cluster(
    place: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the head dies: Ray ends who is connected to it."""
    monkeypatch.setattr(module, "drive", dies)
    with pytest.raises(Exception, match="is lost; `pairmill rerun` finds the training") as lost:
        train_on_ray(*planned_in(tmp_path), place)
    assert getattr(lost.value, "exit_code", None) == 75
    assert JobFailed("x", 75).exit_code == 75


def dies(*_: Any) -> None:
    os._exit(1)
