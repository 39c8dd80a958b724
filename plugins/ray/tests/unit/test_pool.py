"""What of execution.engine = "ray" needs no Ray; plugins/ray/tests/integration/test_ray.py has the rest."""

import json
from dataclasses import replace

import pyarrow as pa
import pytest

from dataops.errors import ConfigError, ContractError
from dataops.home import code_digest
from dataops.store import FolderStore
from plugins.ray.cluster import ClusterCapacity
from plugins.ray.driver import Caller, compute_capacity, double_memory, explain_error, run_call
from plugins.ray.engine import RayExecutor
from plugins.ray.pool import check_store


def test_check_store_raises_when_a_folder_on_several_machines_is_not_declared_shared(tmp_path):
    cluster, capacity = RayExecutor("head:6379"), ClusterCapacity("head:6379", ("a", "b"), 8, 4)
    with pytest.raises(ConfigError, match=r"2 machines .a, b.: use s3://bucket/prefix, or a folder that each"):
        check_store(FolderStore(tmp_path), capacity, cluster)
    check_store(FolderStore(tmp_path), capacity, replace(cluster, shared_store=True))
    check_store(FolderStore(tmp_path), replace(capacity, machines=("a",)), cluster)


def node(**resources):
    return {"Alive": True, "NodeManagerHostname": f"node {sorted(resources.items())}", "Resources": resources}


def test_cluster_scaled_to_zero_has_no_slots_and_one_whose_machines_are_too_small_is_refused():
    cluster = RayExecutor("head:6379", cpus=2.0, memory_bytes=100)
    assert compute_capacity([node(), node(memory=900)], cluster, "h").slots == 0
    assert compute_capacity([], cluster, "h").slots == 0
    two = compute_capacity(
        [node(CPU=4, memory=350), node(CPU=1), {**node(CPU=64, memory=9e9), "Alive": False}], cluster, "h"
    )
    assert (two.slots, two.slots_per_machine, len(two.machines)) == (2, 2, 2)
    small = [node(CPU=1, memory=9e9)]
    with pytest.raises(ConfigError, match=r"set execution\.workers if the cluster grows"):
        compute_capacity(small, cluster, "h")
    assert compute_capacity(small, replace(cluster, workers=9), "h").slots == 0, "it may add larger ones"


@pytest.mark.parametrize(("largest", "second"), [(900, 200), (150, 150), (20, 100)])
def test_a_task_whose_worker_died_gets_twice_the_memory_or_what_the_largest_machine_has(largest, second):
    gone = {**node(memory=9e9), "Alive": False}
    assert double_memory(100, [node(memory=10), node(memory=float(largest)), node(CPU=1), gone]) == second


def call_through(asker, function, *arguments):
    return run_call(function, arguments, {}, asker)


def wrong(text):
    raise ContractError(text)


def starve():
    raise pa.ArrowMemoryError("malloc of size 9 failed")


def test_run_call_returns_an_error_when_code_differs_or_the_store_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = Caller(code_digest(), str(tmp_path), str(tmp_path))
    assert call_through(good, str.upper, "done") == ("result", "DONE")
    kind, error = call_through(replace(good, code="0"), str.upper, "done")
    assert (kind, type(error)) == ("failed", ConfigError)
    assert "has other code of pairmill" in str(error)
    kind, error = call_through(replace(good, store_uri=str(tmp_path / "gone")), str.upper, "done")
    assert "must see the store there" in str(error)


def test_run_call_returns_errors_without_secrets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOME_TOKEN", "hush-hush-hush")
    asker = Caller(code_digest(), str(tmp_path), str(tmp_path))
    kind, error = call_through(asker, wrong, "of hush-hush-hush")
    assert (kind, str(error), type(error)) == ("failed", "of ***", ContractError)
    kind, error = call_through(asker, json.loads, "hush-hush-hush")
    assert str(error).startswith("JSONDecodeError: Expecting value"), "its class needs more to be made than its text"
    kind, error = call_through(asker, int, "hush-hush-hush")
    assert isinstance(error, ValueError)
    assert isinstance(call_through(asker, starve)[1], MemoryError), "the map runs its task again"
    assert "in run_call" in error.__notes__[0]
    assert "hush" not in str(error) + error.__notes__[0]


def test_a_cluster_of_another_version_is_one_clear_error():
    text = "Version mismatch: The cluster was started with:\n    Ray: 2.40.0\nThis process was started with:\n"
    error = explain_error(RuntimeError(text), RayExecutor("head:6379"))
    assert (type(error), error.exit_code) == (ConfigError, 2)
    assert str(error).startswith("the Ray cluster at head:6379 has other versions than this machine: Version mismatch")
