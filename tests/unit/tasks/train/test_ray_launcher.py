"""What of train.launch = "ray" needs no Ray; tests/integration/test_ray_training.py has the rest."""

import logging
import multiprocessing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from dataops.errors import ConfigError, ServiceError, TrainingDiverged
from dataops.store import FolderStore
from tasks.engine import ray_pool
from tasks.engine.context import ClusterCapacity, Context, RayCluster
from tasks.train.ray_launcher import followed, needs, train_on_ray
from tasks.train.stage import build_launcher
from training.config import TrainConfig


@pytest.mark.parametrize(
    ("train", "machines", "gpus"),
    [
        ({}, [{"CPU": 8.0}], 0),
        ({}, [{"CPU": 8.0}, {"CPU": 8.0, "GPU": 2.0}], 2),
        ({"device": "cuda"}, [{"CPU": 8.0, "GPU": 2.0}], 2),
        ({"device": "cpu"}, [{"CPU": 8.0, "GPU": 2.0}], 0),
        ({"nnodes": "2:9", "device": "cuda"}, [{"CPU": 8.0, "GPU": 4.0}], 2),
    ],
)
def test_gpus_are_asked_for_where_the_cluster_has_some(train: Any, machines: Any, gpus: int) -> None:
    config = TrainConfig(nproc=2, threads=2, launch="ray", **train)
    assert needs(config, machines) == {"num_cpus": 4.0, "num_gpus": float(gpus)}


@pytest.mark.parametrize("train", [{"device": "cuda"}, {"threads": 9}, {"nnodes": "3"}])
def test_what_no_cluster_of_this_size_has_is_named(train: Any) -> None:
    with pytest.raises(ConfigError, match=r"lower train\.nproc, threads or nnodes, or add machines"):
        needs(TrainConfig(launch="ray", **train), [{"CPU": 4.0}])


def test_machines_of_ray_need_no_meeting_place_and_tell_torchrun_theirs(tmp_path: Path) -> None:
    assert TrainConfig(nnodes="2", launch="ray").rdzv_endpoint is None
    with pytest.raises(ValidationError, match="rdzv_endpoint must say"):
        TrainConfig(nnodes="2")
    with pytest.raises(ValidationError, match="holds all shards"):
        TrainConfig(nnodes="2", launch="ray", shuffle_shards=2, shard_cache_bytes=9)
    config = TrainConfig(nnodes="2", launch="ray", rdzv_endpoint="10.0.0.5:4000")
    assert {"--local-addr=10.0.0.5", "--rdzv-conf=is_host=1"} <= set(build_launcher(config, "k", tmp_path))
    assert {"--local-addr=10.0.0.6", "--rdzv-conf=is_host=0"} <= set(build_launcher(config, "k", tmp_path, "10.0.0.6"))


def test_what_the_driver_tells_is_passed_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = multiprocessing.Pipe()
    seen: list[Any] = []
    context = Context(store=FolderStore(tmp_path), home=tmp_path, progress=lambda *told: seen.append(told))
    for message in (
        ("room", ClusterCapacity("127.0.0.1:9", ("a",), 1, 1)),
        ("told", logging.WARNING, "%s", "step 7/9"),
        ("progress", 7, 9, "step 7/9"),
        ("failed", TrainingDiverged("nan")),
    ):
        theirs.send(message)
    assert isinstance(followed(ours, context, RayCluster("127.0.0.1:9")), TrainingDiverged)
    assert (theirs.recv(), seen, caplog.messages) == ("go", [(7, 9, "step 7/9")], ["step 7/9"])
    theirs.send(("room", ClusterCapacity("127.0.0.1:9", ("a", "b"), 1, 1)))
    with pytest.raises(ConfigError, match="2 machines"):  # a folder that one of them may not see
        followed(ours, context, RayCluster("127.0.0.1:9"))
    theirs.close()
    with pytest.raises(ServiceError, match="`pairmill rerun` finds the training"):
        followed(ours, context, RayCluster("127.0.0.1:9"))


def test_without_ray_or_a_cluster_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned: Any = SimpleNamespace(key="k")
    context = Context(store=FolderStore(tmp_path), home=tmp_path)
    monkeypatch.setattr(ray_pool, "missing_ray", lambda: "Ray is not installed: pip install -e '.[ray]'")
    with pytest.raises(ConfigError, match="pip install"):
        train_on_ray(planned, context, RayCluster("auto"))
    monkeypatch.setattr(ray_pool, "missing_ray", lambda: None)
    with pytest.raises(ServiceError, match=r"no Ray cluster answers at 127.0.0.1:9: start it"):
        train_on_ray(planned, context, RayCluster("127.0.0.1:9"))
