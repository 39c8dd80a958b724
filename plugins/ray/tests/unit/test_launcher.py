"""The parts of train.launch = "ray" that need no Ray; plugins/ray/tests/integration/test_ray_training.py has the others."""

import pytest
from pydantic import ValidationError

from dataops.errors import ConfigError
from dataops.store import FolderStore
from plugins.ray import actor as ray_actor
from plugins.ray.driver import Caller
from plugins.ray.launcher import compute_resources
from tasks.engine.context import Context
from tasks.train.stage import build_launcher
from training.config import TrainConfig


@pytest.mark.parametrize(
    ("train", "nodes", "gpus"),
    [
        ({}, [{"CPU": 8.0}], 0),
        ({}, [{"CPU": 8.0}, {"CPU": 8.0, "GPU": 2.0}], 2),
        ({"device": "cuda"}, [{"CPU": 8.0, "GPU": 2.0}], 2),
        ({"device": "cpu"}, [{"CPU": 8.0, "GPU": 2.0}], 0),
        ({"nnodes": "2:9", "device": "cuda"}, [{"CPU": 8.0, "GPU": 4.0}], 2),
    ],
)
def test_compute_resources_includes_gpus_when_a_node_has_some(train, nodes, gpus):
    config = TrainConfig(nproc=2, threads=2, launch="ray", **train)
    assert compute_resources(config, nodes) == {"num_cpus": 4.0, "num_gpus": float(gpus)}


def test_launcher_on_ray_sets_the_rendezvous_host_and_the_local_address(tmp_path):
    assert TrainConfig(nnodes="2", launch="ray").rdzv_endpoint is None
    with pytest.raises(ValidationError, match="set rdzv_endpoint to"):
        TrainConfig(nnodes="2")
    with pytest.raises(ValidationError, match="holds all shards"):
        TrainConfig(nnodes="2", launch="ray", shuffle_shards=2, shard_cache_bytes=9)
    config = TrainConfig(nnodes="2", launch="ray", rdzv_endpoint="10.0.0.5:4000")
    assert {"--local-addr=10.0.0.5", "--rdzv-conf=is_host=1"} <= set(build_launcher(config, "k", tmp_path))
    others = [set(build_launcher(config, "k", tmp_path, node)) for node in (2, 10)]
    assert all("--rdzv-conf=is_host=0" in arguments for arguments in others)
    addresses = [one.partition("=")[2] for of in others for one in of if one.startswith("--local-addr")]
    assert sorted(["10.0.0.5", "node-0.train", *addresses])[2:] == addresses, "torch sorts the nodes by it"
    assert "--allow-network" not in build_launcher(config, "k", tmp_path)
    allowed = config.model_copy(update={"allow_network": True})
    assert "--allow-network" in build_launcher(allowed, "k", tmp_path)
    assert build_launcher(TrainConfig(), "k", tmp_path) == (), "one process needs no torchrun"
    assert build_launcher(TrainConfig(nproc=3), "k", tmp_path) == ("-m", "training.launch", "3")


def test_nodes_of_a_cluster_on_a_network_do_not_train_together_unless_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_actor, "node_address", lambda: "10.0.0.5")
    context = Context(store=FolderStore(tmp_path), home=tmp_path)
    config = TrainConfig(nnodes="2", launch="ray")
    request = ray_actor.TrainingRequest("k", config, 0, (), context, Caller("", "", ""), {}, None)
    with pytest.raises(ConfigError, match=r"meet at 10\.0\.0\.5.*set train\.allow_network = true"):
        ray_actor.train(request, None)
