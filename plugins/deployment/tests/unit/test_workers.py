import pytest

from dataops.errors import ConfigError
from dataops.process import FAMILIES
from dataops.redaction import is_secret_variable
from infra.local import services
from infra.local.services import ServiceStatus
from plugins.deployment import workers


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Collect the services that would be started."""
    calls = []

    def ensure(name, command, path, env, port, stop_grace_s):
        assert stop_grace_s > 100, "a training writes its checkpoint in this time"
        calls.append((name, list(command), dict(env)))

    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(services, "ensure_service", ensure)
    return calls


def test_start_workers_gives_each_gpu_its_own_worker(started):
    workers.start_workers("mill", gpus=2)
    assert [
        (name, command[command.index("--pool") + 1], env.get("CUDA_VISIBLE_DEVICES")) for name, command, env in started
    ] == [
        ("worker-mill", "mill", None),
        ("worker-mill-gpu-0", "mill-gpu", "0"),
        ("worker-mill-gpu-1", "mill-gpu", "1"),
    ]
    assert all("--limit" in command for name, command, _ in started if "gpu" in name)


def test_paused_pools_of_the_workers_are_named_once(started, monkeypatch, caplog):
    monkeypatch.setattr(workers, "list_paused_pools", lambda: {"quiet", "quiet-gpu", "other"})
    for gpus in (0, 0, 1):  # `up --restart` starts them repeatedly
        workers.start_workers("quiet", gpus)
    assert [record.getMessage() for record in caplog.records] == [
        f"Work pool {pool} is paused, so no worker begins its runs. Resume it on Prefect's page Work Pools."
        for pool in ("quiet", "quiet-gpu")
    ]


def test_workers_share_only_the_gpus_that_the_environment_names(started, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6, GPU-8f1c")
    workers.start_workers("mill", gpus=2)
    assert [env["CUDA_VISIBLE_DEVICES"] for *_, env in started[1:]] == ["6", "GPU-8f1c"]


@pytest.mark.parametrize(("visible", "gpus"), [("6,7", 3), ("", 2), (None, -1), (None, 1_000_000)])
def test_workers_for_gpus_that_cannot_be_there_are_not_started(started, monkeypatch, visible, gpus):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(ConfigError, match=f"--gpus {gpus}: "):
        workers.start_workers("mill", gpus=gpus)
    assert started == []


@pytest.mark.parametrize(
    ("before", "gpus", "others"),
    [(1, 2, "mill-gpu"), (2, 1, "mill-gpu-0, mill-gpu-1"), (3, 2, "mill-gpu-2"), (2, 3, ""), (2, 0, "")],
)
def test_workers_of_another_number_of_gpus_must_end_first(started, monkeypatch, before, gpus, others):
    names = ["mill-gpu"] if before == 1 else [f"mill-gpu-{gpu}" for gpu in range(before)]
    running = [ServiceStatus(f"worker-{name}", "", "", 1, "running", "") for name in ("mill", "other-gpu", *names)]
    monkeypatch.setattr(services, "status", lambda: running)
    if others:
        with pytest.raises(ConfigError, match=rf"--gpus {gpus}: .* run \({others}\); .*`pairmill down`"):
            workers.start_workers("mill", gpus=gpus)
    else:
        workers.start_workers("mill", gpus=gpus)
    assert len(started) == (0 if others else 1 + gpus)


def test_worker_runs_our_class_on_loopback_without_credentials_in_its_command(started, monkeypatch, tmp_path):
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "me:of-another-server")
    monkeypatch.setattr(services, "client_environment", lambda: {"PREFECT_API_AUTH_STRING": "pairmill:ours"})
    for name, value in (("PREFECT_API_KEY", "pnu_secret"), ("AWS_PROFILE", "mine"), ("HF_TOKEN", "hf_secret")):
        monkeypatch.setenv(name, value)
    workers.start_workers("mill", gpus=0)
    ((_, command, env),) = started
    assert command[:5] == ["python", "-m", "plugins.deployment.process_worker", "--pool", "mill"]
    assert (env["AWS_PROFILE"], env.get("HF_TOKEN")) == ("mine", None), "flows may need any setting"
    assert env["PREFECT_WORKER_WEBSERVER_HOST"] == "127.0.0.1"
    assert (env["PREFECT_API_KEY"], env["PREFECT_API_AUTH_STRING"]) == ("pnu_secret", "pairmill:ours")
    assert not [word for word in command if "pnu_secret" in word or "ours" in word]
    assert env["PAIRMILL_HOME"] == str(tmp_path)


def test_no_name_that_reaches_a_worker_is_that_of_a_secret():
    assert not any(is_secret_variable(name) for name in workers.WORKER_NAMES)
    families = {
        f"{family}{word}" for family in (*FAMILIES, "AWS_", "PAIRMILL_") for word in ("TOKEN", "KEY", "PASSWORD")
    }
    assert workers.worker_environment(dict.fromkeys(families, "planted")).keys().isdisjoint(families)


def test_a_worker_gets_the_settings_of_flows_and_what_the_variable_names():
    settings = {
        "AWS_PROFILE": "mine",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "WANDB_MODE": "offline",
        "PATH": "/bin",
    }
    hidden = {"X": "y", "AWS_SECRET_ACCESS_KEY": "geheim", "HF_TOKEN": "geheim", "PREFECT_API_URL": "http://a.test"}
    named = {"PAIRMILL_JOB_ENVIRONMENT": "ZUGANG", "ZUGANG": "geheim"}
    own = {"PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
    assert workers.worker_environment({**settings, **hidden, **named}) == {**settings, **named, **own}
