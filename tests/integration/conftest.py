"""A real S3 server on loopback, started and stopped by the tests."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataops.errors import SourceError
from tasks import extract as extract_stage

KEY_ID, SECRET = "pairmill-test", "only-for-tests-on-loopback"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a SeaweedFS whose credentials are KEY_ID and SECRET."""
    folder = tmp_path_factory.mktemp("weed")
    roles = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
    ports = {role: free_port() for role in (*roles, "s3.port", "s3.port.grpc", "admin.port", "admin.port.grpc")}
    weed = Path(sys.executable).parent / "weed"
    off = ("-master.telemetry=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0")
    command = [str(weed), "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *off]
    command += [f"-{role}={port}" for role, port in ports.items()]
    env = {**os.environ, "AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}
    log = (folder / "weed.log").open("wb")
    with log, subprocess.Popen(command, stdout=log, stderr=log, env=env, cwd=folder) as process:
        endpoint = f"http://127.0.0.1:{ports['s3.port']}"
        try:
            deadline = time.monotonic() + 40
            while not _answers(endpoint):
                assert process.poll() is None, (folder / "weed.log").read_text(errors="replace")[-3000:]
                assert time.monotonic() < deadline, (folder / "weed.log").read_text(errors="replace")[-3000:]
                time.sleep(0.2)
            yield endpoint
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _answers(endpoint: str) -> bool:
    try:
        with urllib.request.urlopen(endpoint, timeout=2):
            return True
    except urllib.error.HTTPError as error:
        with error:
            return error.code in (400, 403)  # it answers, and wants credentials
    except OSError:
        return False


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks run in this process, each tried as often as in workers."""

    def map_parts(function, tasks, draft, context):
        records = []
        for task in tasks:
            for attempt in range(3):
                try:
                    records.append(draft.done(task.id) or draft.finish(function(draft, task)))
                    break
                except SourceError:
                    if attempt == 2:
                        raise
        return records

    monkeypatch.setattr(extract_stage, "map_parts", map_parts)
