"""What several machines exchange by the store. machines.py, which `make nodes` runs, trains on two of them."""

import json
import re
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from dataops.errors import ConfigError, JobFailed
from dataops.home import CHECKOUT, code_digest
from dataops.process import RETRYABLE
from dataops.snapshot import Draft
from dataops.store import FolderStore
from plugins.nodes import training
from plugins.nodes.group import First, Group, Refusal, Training, find_group
from tasks.engine.context import Context
from tasks.engine.process_guard import GRACE_SECONDS
from tasks.engine.stage import plan
from tasks.train.stage import TRAIN
from tests.concurrency import wait_for
from tests.trainings import VIT, dataset
from training.config import TrainConfig

KUBERNETES = {"JOB_COMPLETION_INDEX": "1", "PAIRMILL_NODE_0": "train-0.train", "PAIRMILL_NODE_JOB": "1f-2e"}
SKYPILOT = {
    "SKYPILOT_NODE_RANK": "1",
    "SKYPILOT_NODE_IPS": "10.0.0.4\n10.0.0.5",
    "SKYPILOT_TASK_ID": "sky-2026-11-30_cluster/1",
}


@pytest.fixture
def group(tmp_path):
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    yield Group(FolderStore(tmp_path / "store"), "job", 1, "127.0.0.1", 29400)
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


@pytest.fixture
def planned(tmp_path, group):
    """Return a training of two machines, whose dataset is in the store."""
    (tmp_path / "vit.json").write_text(json.dumps(VIT))
    settings = {"model": str(tmp_path / "vit.json"), "batch_size": 8, "vocab_size": 300, "device": "cpu"}
    config = TrainConfig.model_validate(settings | {"nnodes": "2", "launch": "nodes", "threads": 1})
    upstream = Draft(group.store, "pack", "a" * 16).commit(dataset(group.store))
    return plan(TRAIN, config, 0, [upstream], group.store), Context(store=group.store, home=tmp_path / "home")


@pytest.mark.parametrize(
    ("environ", "first", "job"),
    [(KUBERNETES, "train-0.train", "1f-2e"), (SKYPILOT, "10.0.0.4", "sky-2026-11-30_cluster-1")],
)
def test_environment_of_each_scheduler_identifies_the_machines(tmp_path, environ, first, job):
    store = FolderStore(tmp_path)
    found = find_group(store, 1, environ)
    assert (found.index, found.first, found.job) == (1, first, job)
    assert find_group(store, 1, found.environment) == found, "what the command of the first machine gets"
    for name in environ:
        with pytest.raises(ConfigError, match="set PAIRMILL_NODE_"):
            find_group(store, 1, environ | {name: ""})
    with pytest.raises(ConfigError, match="'a b'; it must be the host name"):
        find_group(store, 1, KUBERNETES | {"PAIRMILL_NODE_0": "a b"})


def test_machine_ends_with_75_when_the_first_one_never_comes_or_is_silent(group):
    with pytest.raises(
        JobFailed, match=r"127\.0\.0\.1, has written nothing in .*nodes/job/first\.json for 0 s"
    ) as caught:
        training.follow(group, patience=0.1, poll=0.01)
    assert caught.value.exit_code == 75
    group.put(First(token="t", beat=3))
    with pytest.raises(JobFailed, match="has not changed what it wrote"):
        training.follow(group, patience=0.1, poll=0.01)


def test_machines_end_as_the_command_of_the_first_one_does(group):
    """A command that is retryable is started again: the others wait."""
    script = "import os, sys; sys.exit(int(os.environ['PAIRMILL_NODE_TOKEN'] != '' and sys.argv[1]))"
    codes = []
    follower = threading.Thread(target=lambda: codes.append(training.follow(group, 60, poll=0.01)))
    for code in ("75", "4"):
        assert training.lead(group, [sys.executable, "-c", script, code], beat=0.01) == int(code)
        if code == "75":
            follower.start()
            follower.join(0.1)
            assert follower.is_alive()
    follower.join(30)
    assert codes == [4]
    killed = "import os; os.kill(os.getpid(), 9)"
    assert training.lead(group, [sys.executable, "-c", killed], beat=0.01) == 75


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"code": "another"}, "machine 1 has another version of pairmill than the first one"),
        ({"key": "0" * 16}, r"machine 1 has other files for train\.model, vocabulary or init than the first one"),
        ({"config": None}, r"training\.json is of another version of pairmill"),
    ],
)
def test_machine_that_differs_refuses_and_the_first_one_raises_its_error(
    group,
    planned,
    monkeypatch,
    change,
    message,
):
    leader = replace(group, index=0).begin()
    leader.put(First(token=leader.token))
    for name, value in leader.environment.items():
        monkeypatch.setenv(name, value)
    ended = threading.Event()
    monkeypatch.setattr(training, "end_jobs", ended.set)

    def make_until_ended(plan, context):
        """Train as long as nothing ends the job."""
        assert plan.config.rdzv_endpoint == "127.0.0.1:29400"
        found = json.loads(group.store.read(group.name(Training)))
        assert (found["key"], found["code"]) == (planned[0].key, code_digest())
        group.store.put(group.name(Training), json.dumps(found | change).encode())
        assert ended.wait(30)
        raise JobFailed("stopped after step 3", exit_code=75)

    monkeypatch.setattr(training, "make", make_until_ended)
    errors = []

    def lead():
        try:
            training.train_on_nodes(*planned, poll=0.02)
        except ConfigError as error:
            errors.append(error)

    thread = threading.Thread(target=lead)
    thread.start()
    wait_for(lambda: (data := group.store.find(group.name(Training))) and json.loads(data).items() >= change.items())
    with pytest.raises(ConfigError, match=message):
        training.follow(group, 60, poll=0.02)
    thread.join(30)
    assert message.split(".")[0].replace("\\", "") in str(errors[0])
    assert group.find(Training) is None, "no machine waits for a training that is over"
    refusal = group.find(Refusal, leader.token)
    assert refusal.exit_code == 2


def test_machine_takes_part_in_each_attempt_once_and_stops_when_it_is_over(group, planned, monkeypatch):
    ended, works = threading.Event(), []
    monkeypatch.setattr(training, "end_jobs", ended.set)

    def run(work, node, is_over):
        works.append((work, node))
        assert not is_over()
        group.put(record.model_copy(update={"attempt": "2"}) if len(works) == 1 else First(token="t", ended=0))
        assert ended.wait(30)
        ended.clear()
        assert is_over()

    monkeypatch.setattr(training, "run_other_node", run)
    group.put(First(token="t"))
    record = Training(
        token="t", attempt="1", key=planned[0].key, code=code_digest(), config=planned[0].config.model_dump(mode="json"),
        seed=0, upstream=[("pack", "a" * 16)], evaluate={"suite": "x"},
    )  # fmt: skip
    group.put(record)
    assert training.follow(group, 60, poll=0.02) == 0
    (work, node), _ = works
    assert (node, work.draft.key, work.config.rdzv_endpoint) == (1, planned[0].key, "127.0.0.1:29400")
    assert work.inputs["pack"].key == "a" * 16
    assert work.context.run_config == {"evaluate": {"suite": "x"}}


def test_a_start_that_ends_late_leaves_the_training_of_the_next_one(group, planned, monkeypatch):
    """The command of a killed `pairmill node` writes its last checkpoint while the next start has begun."""
    first, later = (replace(group, index=0, token=token) for token in ("first", "later"))
    for name, value in first.environment.items():
        monkeypatch.setenv(name, value)

    def begin_again(plan, context):
        record = group.find(Training, first.token)
        assert record is not None
        for one in (First(token=later.token), record.model_copy(update={"token": later.token})):
            group.put(one)
        raise JobFailed("stopped after step 3", exit_code=75)

    monkeypatch.setattr(training, "make", begin_again)
    with pytest.raises(JobFailed, match="stopped after step 3"):
        training.train_on_nodes(*planned, poll=0.02)
    assert group.find(Training, later.token) is not None


def test_machines_do_not_meet_on_a_network_unless_allowed(group, planned, monkeypatch):
    with pytest.raises(ConfigError, match="start the run on each machine by `pairmill node"):
        training.train_on_nodes(*planned)
    leader = replace(group, index=0, first="train-0.train").begin()
    for name, value in leader.environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"meet at train-0\.train.*set train\.allow_network = true"):
        training.train_on_nodes(*planned)
    other = replace(planned[1], store=FolderStore(Path("/elsewhere")))
    with pytest.raises(ConfigError, match="`pairmill node --store` is"):
        training.train_on_nodes(planned[0], other)


def test_job_of_kubernetes_runs_one_command_on_machines_that_find_the_first_one():
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="the extra `dev` has it")
    files = [CHECKOUT / f"infra/kubernetes/training-{name}.yaml" for name in ("network", "job")]
    service, policy, job = [one for file in files for one in yaml.safe_load_all(file.read_text())]
    for manifest in (service, policy, job):
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    name, spec, pod = job["metadata"]["name"], job["spec"], job["spec"]["template"]["spec"]
    assert (spec["completionMode"], spec["parallelism"]) == ("Indexed", spec["completions"])
    assert service["spec"]["clusterIP"] == "None", "each pod has a name"
    selectors = [service["spec"]["selector"], policy["spec"]["podSelector"]["matchLabels"]]
    selectors += [rule["podSelector"]["matchLabels"] for rule in policy["spec"]["ingress"][0]["from"]]
    assert selectors == [spec["template"]["metadata"]["labels"]] * 3
    (container,) = pod["containers"]
    named = {variable["name"]: variable for variable in container["env"]}
    assert pod["subdomain"] == service["metadata"]["name"]
    assert named["PAIRMILL_NODE_0"]["value"] == f"{name}-0.{pod['subdomain']}"
    assert "controller-uid" in named["PAIRMILL_NODE_JOB"]["valueFrom"]["fieldRef"]["fieldPath"], "another for each job"
    assert not [n for n, one in named.items() if re.search("TOKEN|SECRET|PASSWORD|AUTH|_KEY", n) and "value" in one]
    assert container["args"][:2] == ["pairmill", "node"]
    (failing,) = (rule["onExitCodes"] for rule in spec["podFailurePolicy"]["rules"] if rule["action"] == "FailJob")
    assert failing["containerName"] == container["name"]
    assert RETRYABLE not in failing["values"]
    assert pod["terminationGracePeriodSeconds"] > GRACE_SECONDS
    assert pod["securityContext"]["runAsNonRoot"]
