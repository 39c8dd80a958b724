"""What ranks exchange is not unpickled: tests/unit/training/test_evaluate_ranks.py exchanges everything that they send."""

import os
import pickle
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from tests.bombs import Bomb
from training import distributed
from training.distributed import broadcast_from_first, gather_objects, leave

VALUE = {"none": None, "numbers": [1, 2.5, True], "nested": [("e", {"a": b"0"})]}


@pytest.fixture
def group(tmp_path, monkeypatch):
    """A process group of one rank whose functions exchange as those of several do."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    counts = iter([2])
    monkeypatch.setattr(distributed, "world_size", lambda: next(counts, 1))  # the first call asks whether to exchange
    yield
    leave()


@pytest.mark.usefixtures("group")
def test_gather_objects_returns_nested_values_with_tensors():
    (found,) = gather_objects({**VALUE, "tensor": torch.arange(3)})
    assert torch.equal(found.pop("tensor"), torch.arange(3))
    assert found == VALUE


class Backend:
    """The part of a group of ranks that exchanges between GPUs."""

    def __init__(self):
        self.timeouts = []

    def _get_backend(self, device):
        assert device.type == "cuda"
        return self

    def _set_default_timeout(self, timeout):
        self.timeouts.append(timeout)


@pytest.mark.parametrize("device", [torch.device("cuda", 1), torch.device("cpu")])
def test_groups_have_a_device_timeouts_records_and_gloo_for_the_host(tmp_path, monkeypatch, device):
    found = {}
    group, world = Backend(), SimpleNamespace(pg_map={})

    def start(**options):
        found.update(options)
        world.pg_map[group] = None

    monkeypatch.setattr(dist, "init_process_group", start)
    monkeypatch.setattr(dist, "is_initialized", lambda: bool(world.pg_map))
    monkeypatch.setattr(dist.distributed_c10d, "_world", world)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.5")
    distributed.join(device, allow_network=True, records=tmp_path / "records")
    distributed.limit_gpu_waits(device, "step")
    assert found.pop("timeout") == distributed.TIMEOUT
    if device.type == "cpu":
        assert (found, group.timeouts) == ({"backend": "gloo"}, [])
        return
    assert found == {"backend": "cpu:gloo,cuda:nccl", "device_id": device}
    assert group.timeouts == [timedelta(minutes=5), timedelta(minutes=2)]
    for name in ("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE"):
        assert os.environ[name] == str(tmp_path / "records" / "rank-")
    assert (tmp_path / "records").is_dir()
    assert os.environ["TORCH_NCCL_DUMP_ON_TIMEOUT"] == "1"


@pytest.mark.parametrize("static_graph", [True, False])
def test_gradients_lie_in_the_buckets_that_ranks_exchange(group, monkeypatch, static_graph):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    model = distributed.parallelize(torch.nn.Linear(2, 2), torch.device("cpu"), static_graph=static_graph)
    assert (model.gradient_as_bucket_view, model.static_graph) == (True, static_graph)


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("exchange", [gather_objects, broadcast_from_first])
@pytest.mark.parametrize("protocol", [0, 2, None])
def test_ranks_run_no_pickle_and_no_archive_of_torch_that_another_sends(exchange, protocol, tmp_path, monkeypatch):
    def send(value, file):
        file.write(pickle.dumps(value, protocol))

    if protocol is not None:
        monkeypatch.setattr(torch, "save", send)
    with pytest.raises(pickle.UnpicklingError):
        exchange(Bomb(tmp_path / "ran"))
    assert not (tmp_path / "ran").exists()
