from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from infra.local import services, worker


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> list[tuple[str, list[str], dict[str, str]]]:
    """Collect the services that would be started."""
    calls: list[tuple[str, list[str], dict[str, str]]] = []

    def ensure(name: str, command: Sequence[str], path: str, env: Mapping[str, str], port: int | None) -> None:
        calls.append((name, list(command), dict(env)))

    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path))
    monkeypatch.setattr(services, "ensure_service", ensure)
    return calls


def test_start_workers_gives_each_gpu_its_own_worker(started):
    worker.start_workers("mill", gpus=2)
    assert [
        (name, command[command.index("--pool") + 1], env.get("CUDA_VISIBLE_DEVICES")) for name, command, env in started
    ] == [
        ("worker-mill", "mill", None),
        ("worker-mill-gpu-0", "mill-gpu", "0"),
        ("worker-mill-gpu-1", "mill-gpu", "1"),
    ]
    assert all("--limit" in command for name, command, _ in started if "gpu" in name)


def test_worker_listens_on_loopback_and_has_no_credentials_in_its_command(started, monkeypatch, tmp_path):
    monkeypatch.setenv("PREFECT_API_KEY", "pnu_secret")
    monkeypatch.setenv(
        "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL", "WARNING"
    )  # for the command only, not for flow runs
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    worker.start_workers("mill", gpus=0)
    ((_, command, env),) = started
    assert (env["AWS_PROFILE"], env.get("HF_TOKEN")) == ("mine", None), "flows may need any setting"
    assert env["PREFECT_WORKER_WEBSERVER_HOST"] == "127.0.0.1"
    assert env["PREFECT_API_KEY"] == "pnu_secret"
    assert "pnu_secret" not in " ".join(command)
    assert env["PAIRMILL_HOME"] == str(tmp_path)
    assert "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL" not in env


def test_worker_runs_our_class_with_the_login_of_our_server(started, monkeypatch):
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "me:of-another-server")
    monkeypatch.setattr(services, "client_environment", lambda: {"PREFECT_API_AUTH_STRING": "pairmill:ours"})
    worker.start_workers("mill", gpus=0)
    ((_, command, env),) = started
    assert command[:5] == ["python", "-m", "infra.local.process_worker", "--pool", "mill"]
    assert env["PREFECT_API_AUTH_STRING"] == "pairmill:ours"
    assert "ours" not in " ".join(command)
