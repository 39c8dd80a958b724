import os
import re
from importlib import metadata

import pytest

from infra.local import services
from infra.local.services import ServiceStatus
from plugins.doctor import diagnose as doctor
from plugins.doctor import machine as machine_checks
from plugins.doctor import servers as server_checks
from plugins.doctor import store as store_checks
from plugins.doctor.check import Check
from plugins.doctor.command import show_checks
from plugins.doctor.diagnose import check_executors, check_proxy
from tasks.web.host_state import HostState
from tests.python_code import run_python


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path / "home"))
    for variable in services.CLIENT_VARIABLE.values():
        monkeypatch.delenv(variable, raising=False)


def test_diagnose_gives_each_failed_check_a_remedy_and_writes_nothing(tmp_path):
    checks = doctor.diagnose()
    assert all(isinstance(check, Check) for check in checks)
    assert [check for check in checks if not check.ok and not check.remedy] == []
    named = {check.name for check in checks}
    assert {"packages", "checkout", "store", "disk", "memory", "gpu", "prefect server", "mlflow server"} <= named
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("state", "healthy", "ok", "severity", "remedy"),
    [
        ("running", True, True, "error", ""),
        ("external", True, True, "error", ""),
        ("stopped", False, True, "warning", ""),
        ("stale", False, False, "warning", "pairmill up"),
        ("external", False, False, "error", "unset MLFLOW_TRACKING_URI"),
    ],
)
def test_check_services_by_state(state, healthy, ok, severity, remedy, monkeypatch):
    status = ServiceStatus("mlflow", "http://x", "http://x", None, state, "log", healthy)
    monkeypatch.setattr(server_checks, "fetch_status", lambda url: (200, metadata.version("mlflow")))
    check, *_ = server_checks.check_services([status])
    assert (check.ok, check.severity) == (ok, severity)
    assert remedy in check.remedy


def test_check_store_in_a_folder(tmp_path):
    (missing,) = store_checks.check_store(str(tmp_path / "a/b"))
    assert missing.ok
    assert not (tmp_path / "a").exists()
    assert [(check.name, check.ok) for check in store_checks.check_store(str(tmp_path))] == [
        ("store", True),
        ("store races", True),
    ]
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    for uri in (tmp_path / "file", tmp_path / "file/store"):
        (check,) = store_checks.check_store(str(uri))
        assert (check.ok, check.severity) == (False, "error")
        assert "store.uri" in check.remedy


def test_full_disk_is_an_error_and_one_with_little_room_a_warning(tmp_path):
    for free, outcome in ((0, (False, "error")), (2**31, (False, "warning")), (5 * 2**30, (True, "warning"))):
        found = machine_checks.check_disk(tmp_path, lambda path, free=free: free)
        assert (found.ok, found.severity) == outcome


def fake_tool(folder, script):
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    return str(tool)


SMI = """case "$1" in
  --query-gpu*) echo 'NVIDIA H100, 81559 MiB, 570.1'; echo 'NVIDIA H100, 81559 MiB, 570.1';;
  *) echo '| NVIDIA-SMI 570.1    Driver Version: 570.1    CUDA Version: 12.8 |';;
esac"""


def test_check_gpu_compares_the_driver_with_the_torch_build(tmp_path):
    none = machine_checks.check_gpu(lambda name: None)
    assert none.ok
    assert "CPU" in none.detail
    tool = fake_tool(tmp_path, SMI)
    fits = machine_checks.check_gpu(lambda name: tool, torch_cuda="12.9")
    assert (fits.ok, fits.detail.count("H100")) == (True, 2)
    newer = machine_checks.check_gpu(lambda name: tool, torch_cuda="13.0")
    assert (newer.ok, newer.severity) == (False, "warning")
    assert "torch is built for CUDA 13.0 and the driver supports 12.8" in newer.detail
    assert "update the NVIDIA driver" in newer.remedy
    without = machine_checks.check_gpu(lambda name: tool, torch_cuda=None)
    assert not without.ok
    assert "a build without CUDA" in without.detail
    tool = fake_tool(tmp_path, "echo 'Driver/library version mismatch'; exit 18")
    broken = machine_checks.check_gpu(lambda name: tool)
    assert (broken.ok, broken.severity) == (False, "warning")
    assert "version mismatch" in broken.detail


def test_doctor_imports_no_prefect_mlflow_or_torch():
    code = "import sys, plugins.doctor.diagnose; print({'prefect', 'mlflow', 'torch', 'boto3'} & set(sys.modules))"
    assert run_python(code).stdout == "set()\n"


def test_hostile_text_of_a_check_is_printed_as_text(capsys):
    hostile = "[bold]x[/bold]\x1b[2J\x07\r\x9b31m\u202e"
    show_checks([Check(hostile, False, "error", hostile, hostile)], as_json=False)
    printed = capsys.readouterr().out
    assert not set(printed) & set("\x1b\x07\r\x9b\u202e")
    assert "[bold]x[/bold]" in printed


def test_config_that_is_a_fifo_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "c.toml")
    assert [check.ok for check in check_executors(tmp_path / "c.toml")] == [False]


def test_growth_names_what_is_larger_than_a_year_makes_it(tmp_path):
    (tmp_path / "services" / "prefect").mkdir(parents=True)
    (tmp_path / "services" / "prefect" / "log").write_bytes(b"x" * 3000)
    (tmp_path / "services" / "prefect" / "log.1").write_bytes(b"x" * 3000)
    (fine,) = machine_checks.check_growth(tmp_path)
    assert fine.ok
    (found,) = machine_checks.check_growth(tmp_path, {"services/*/log*": (5e-6, "pairmill up"), "nothing*": (0, "")})
    assert (found.ok, found.severity, found.remedy) == (False, "warning", "pairmill up")


def test_proxy_of_a_download_is_named_without_its_login(tmp_path):
    (tmp_path / "c.toml").write_text('[download]\nproxy = "http://me:secret@proxy.test:3128"\n')
    (check,) = check_proxy(tmp_path / "c.toml")
    assert (check.ok, check.severity) == (False, "warning")
    assert check.detail == "proxy.test:3128 resolves hosts, so only it can refuse private IP addresses"
    (tmp_path / "c.toml").write_text("[download]\n")
    assert check_proxy(tmp_path / "c.toml") == []


def test_look_ups_a_second_are_measured_by_the_hosts_of_earlier_downloads(tmp_path):
    config, answers = tmp_path / "c.toml", {f"h{n}.test": [] for n in range(9)}
    config.write_text("[download]\n")
    assert doctor.check_dns(config, tmp_path) == [], "none was downloaded"
    for host in answers:
        HostState(tmp_path / "hosts" / "web").put_addresses(host, [], 60)
    (check,) = doctor.check_dns(config, tmp_path, lambda host: (answers.pop(host), None))
    assert not answers, "each was asked for once, and nothing kept was used"
    assert re.fullmatch(r"[\d,]+ look-ups a second, of 9 hosts of earlier downloads; 0 without .*", check.detail)
    assert "download.resolvers" in check.remedy
    config.write_text('[download]\nproxy = "http://p.test:1"\n')
    assert doctor.check_dns(config, tmp_path) == [], "the proxy resolves them"


def test_installed_torch_cuda_agrees_with_torch():
    import torch  # in seconds where all tests are collected

    assert machine_checks.installed_torch_cuda() == torch.version.cuda
