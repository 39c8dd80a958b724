import os
from pathlib import Path

import pytest

from dataops.errors import StorageError
from infra import doctor, services
from infra.check import Check
from infra.services import ServiceStatus


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path / "home"))
    for variable in services.CLIENT_VARIABLE.values():
        monkeypatch.delenv(variable, raising=False)


def test_every_failing_check_of_this_machine_has_a_remedy_and_nothing_is_made(tmp_path: Path):
    checks = doctor.diagnose()
    assert all(isinstance(check, Check) for check in checks)
    assert [check for check in checks if not check.ok and not check.remedy] == []
    named = {check.name for check in checks}
    assert {"python", "checkout", "store", "disk", "memory", "gpu", "prefect server", "mlflow server"} <= named
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
def test_servers(state, healthy: bool, ok: bool, severity: str, remedy: str):
    status = ServiceStatus("mlflow", "http://x", "http://x", None, state, "log", healthy)
    (check,) = doctor.check_services([status])
    assert (check.ok, check.severity) == (ok, severity)
    assert remedy in check.remedy


def test_taken_ports_are_told_and_no_fault():
    taken, free = doctor.check_ports(lambda port: port != 4200)
    assert (taken.name, taken.ok, free.detail) == ("port 4200", True, "free")
    assert "takes another port" in taken.detail


def test_store_in_a_folder(tmp_path: Path):
    missing = doctor.check_store(str(tmp_path / "a/b"))
    assert missing.ok
    assert not (tmp_path / "a").exists()
    assert doctor.check_store(str(tmp_path)).ok
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    for uri in (tmp_path / "file", tmp_path / "file/store"):
        check = doctor.check_store(str(uri))
        assert (check.ok, check.severity) == (False, "error")
        assert "store.uri" in check.remedy


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_store_in_a_folder_of_another_user():
    assert not doctor.check_store("/usr/pairmill-store").ok


def test_store_elsewhere_is_probed():
    asked = []
    assert doctor.check_store("s3://bucket/prefix", asked.append).ok
    assert asked == ["s3://bucket/prefix"]

    def refused(uri: str) -> None:
        raise StorageError(f"cannot write {uri}: AccessDenied")

    check = doctor.check_store("s3://bucket/prefix", refused)
    assert (check.ok, check.severity, check.detail) == (False, "error", "cannot write s3://bucket/prefix: AccessDenied")
    assert "AWS_ENDPOINT_URL" in check.remedy
    assert not doctor.check_store("ftp://host/path").ok


def test_disk_and_memory_floors(tmp_path: Path):
    disk = os.statvfs(tmp_path)
    assert doctor.check_disk(tmp_path / "not/yet").ok is (disk.f_bavail * disk.f_frsize >= 5 * 2**30)
    low = doctor.check_disk(tmp_path, lambda path: 5 * 2**30 - 1)
    assert (low.ok, low.severity) == (False, "warning")
    assert doctor.check_disk(tmp_path, lambda path: 5 * 2**30).ok
    assert not doctor.check_memory(2**30).ok
    assert doctor.check_memory(3 * 2**30).ok


def fake_tool(folder: Path, script: str) -> str:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    return str(tool)


def test_gpu(tmp_path: Path):
    none = doctor.check_gpu(lambda name: None)
    assert none.ok
    assert "CPU" in none.detail
    tool = fake_tool(tmp_path, "echo 'NVIDIA H100, 81559 MiB, 570.1'; echo 'NVIDIA H100, 81559 MiB, 570.1'")
    assert doctor.check_gpu(lambda name: tool).detail.count("H100") == 2
    tool = fake_tool(tmp_path, "echo 'Driver/library version mismatch'; exit 18")
    broken = doctor.check_gpu(lambda name: tool)
    assert (broken.ok, broken.severity) == (False, "warning")
    assert "version mismatch" in broken.detail


def test_a_bare_python_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch):
    def missing(wanted: str) -> Check:
        raise ModuleNotFoundError("No module named 'packaging'")

    monkeypatch.setattr(doctor.installation, "check_python", missing)
    checks = [check for check in doctor.diagnose() if check.name == "packages"]
    assert [(check.ok, check.severity) for check in checks] == [(False, "error")]
    assert "pip install -e ." in checks[0].remedy
