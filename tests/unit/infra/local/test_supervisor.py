import dataclasses
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from dataops.errors import ServiceError, StorageError
from dataops.messages.waiting import current_waits
from infra.local import supervisor
from infra.local import supervisor as processes
from infra.local.supervisor import Service, ServiceRecord

SITE = Service("site", (sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1"), "/")


@pytest.fixture
def services(tmp_path):
    yield tmp_path
    for folder in tmp_path.glob("*/"):
        if record := supervisor.load(folder):
            supervisor.stop(folder, record)
        assert processes.find_marked(str(folder)) == []


def start(services, service=SITE, **options):
    (record,) = supervisor.ensure_running(services, [service], 60.0, **options)
    assert supervisor.is_healthy(services / service.name, record)
    return record


def test_ensure_running_restarts_a_killed_server_and_ends_its_child(services):
    parent = "import subprocess, sys; subprocess.call(sys.argv[1:])"
    site = dataclasses.replace(SITE, command=(sys.executable, "-c", parent, *SITE.command))
    first = start(services, site)
    assert first.pid
    os.kill(first.pid, signal.SIGKILL)
    while first.alive:
        time.sleep(0.01)
    assert supervisor.answers(first.port, "/"), "the child still serves"
    again = start(services, site)
    assert again.pid != first.pid
    assert again.port == first.port
    assert len(processes.find_marked(str(services / "site"))) == 2


def test_ensure_running_retries_when_the_chosen_port_is_taken(services, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        choose, answers = processes.choose_port, iter([port])
        monkeypatch.setattr(processes, "choose_port", lambda *preferred: next(answers, None) or choose(*preferred))
        assert start(services).port != port
        assert "Address already in use" in (services / "site/log").read_text()


def test_ensure_running_retries_when_the_port_was_taken_and_is_free_again(services):
    fails_once = "import os, sys; os.path.exists('x') or sys.exit(open('x', 'w') and 'Port 1 is already in use.');"
    fails_once += "os.execv(sys.argv[1], sys.argv[1:])"
    start(services, dataclasses.replace(SITE, command=(sys.executable, "-c", fails_once, *SITE.command)))


def test_ensure_running_stops_and_reports_a_server_that_never_answers(services, monkeypatch):
    code = (
        "import atexit, signal, sys, time; atexit.register(lambda: print('error in the shutdown\\n' * 30, flush=True));"
        " signal.signal(signal.SIGTERM, lambda *_: sys.exit(1)); print('thinking', flush=True); time.sleep(60)"
    )
    silent = Service("silent", (sys.executable, "-c", code), "/")
    seen, begun = {}, set()

    def is_healthy(folder, record):
        seen.update({wait.reason: wait for wait in current_waits()})
        answers = folder.name != "silent" and original(folder, record)
        if answers or "thinking" in (folder / "log").read_text():
            begun.add(folder.name)
        return answers

    original, monotonic = supervisor.is_healthy, time.monotonic
    monkeypatch.setattr(supervisor, "is_healthy", is_healthy)
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + 60 * (len(begun) == 2))
    with pytest.raises(ServiceError, match=r"(?s)silent is alive but does not answer, .*thinking") as caught:
        supervisor.ensure_running(services, [SITE, silent], 60.0)
    assert "shutdown" not in str(caught.value), "what it logged before it was stopped is the reason"
    assert "error in the shutdown" in (services / "silent/log").read_text()
    assert [
        reason for reason in seen if re.fullmatch(rf"the silent server starts \(process \d+; .*{services}.*\)", reason)
    ]
    assert all(wait.deadline is not None for wait in seen.values())
    assert current_waits() == []
    assert processes.find_marked(str(services / "silent")) == []


def test_ensure_running_restarts_a_hanging_server(services, monkeypatch):
    site = dataclasses.replace(SITE, silence_s=0.2, stop_grace_s=0.2)
    first = start(services, site)
    monkeypatch.setattr(
        supervisor, "answers", lambda port, path, ask=supervisor.answers: ask(port, path, timeout_s=3.0)
    )
    supervisor.save(services / "site", dataclasses.replace(first, started_at="2020-01-01T00:00:00+00:00"))
    assert first.pid
    os.kill(first.pid, signal.SIGSTOP)
    assert start(services, site).pid != first.pid


def test_lock_excludes_others_and_times_out(services):
    with (
        supervisor.lock(services),
        pytest.raises(ServiceError, match="another process has held"),
        supervisor.lock(services, patience_s=0.2),
    ):
        pass
    with (
        supervisor.lock(services, patience_s=0.2),
        (services / "lock").open() as other,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_full_disk_is_reported_with_the_remedy_and_leaves_no_server(services):
    folder = services / "site"
    folder.mkdir()
    (folder / "state.json.tmp").symlink_to("/dev/full")  # a real "no space left on device"
    with pytest.raises(
        StorageError, match="No space left on device; free disk space, or set PAIRMILL_HOME to a folder"
    ):
        supervisor.ensure_running(services, [SITE], 4.0)
    assert processes.find_marked(str(folder)) == []
    (folder / "state.json.tmp").unlink()
    start(services)


def test_process_with_our_pid_and_port_after_a_reboot_is_not_ours(services, caplog):
    port = processes.choose_port()
    folder = services / "site"
    folder.mkdir()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL, cwd=services) as stranger:
        try:
            while not supervisor.answers(port, "/"):
                time.sleep(0.02)
            before = str(processes.process_fingerprint(stranger.pid))
            record = ServiceRecord(
                "site", port, SITE.command, "/", stranger.pid, f"earlier-boot:{before.split(':')[-1]}", None
            )
            supervisor.save(folder, record)
            assert not supervisor.is_healthy(folder, record)
            # Even if the identity were the same, what listens does not carry our mark.
            assert not supervisor.is_healthy(folder, dataclasses.replace(record, identity=before))
            ours = start(services)
            assert ours.port != port
            assert f"another program uses port {port}, so it starts on {ours.port}" in caplog.text
            supervisor.save(folder, record)
            supervisor.stop(folder, record)
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_a_server_gets_the_variables_of_a_list():
    settings = {"AWS_PROFILE": "mine", "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "WANDB_MODE": "offline"}
    needed = {
        "PATH": "/bin",
        "HOME": "/home/me",
        "LC_ALL": "C",
        "https_proxy": "http://127.0.0.1:9",
        "NCCL_DEBUG": "WARN",
    }
    hidden = {"ZUGANG": "geheim", "X": "y", "AWS_SECRET_ACCESS_KEY": "geheim", "HF_TOKEN": "geheim", "PGPASSWORD": "g"}
    own = {"PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
    environ = {**settings, **needed, **hidden, "PAIRMILL_JOB_ENVIRONMENT": "ZUGANG", "PREFECT_API_URL": "http://a.test"}
    server = supervisor.clean_environment(environ)
    assert server == {**needed, **own, "PAIRMILL_JOB_ENVIRONMENT": "ZUGANG"}


def test_long_log_is_moved_while_its_server_writes(tmp_path):
    log = tmp_path / "log"
    with log.open("ab", buffering=0) as output:  # as `spawn` opens it
        output.write(b"old\n" * 100)
        supervisor.rotate_log(tmp_path, limit=400)
        assert log.stat().st_size == 400
        output.write(b"x\n")
        supervisor.rotate_log(tmp_path, limit=400)
        output.write(b"new\n")
    assert log.read_text() == "new\n"
    assert (tmp_path / "log.1").read_text() == "old\n" * 100 + "x\n"
