"""What was planted in the environment (conftest.PLANTED) and in addresses is nowhere in what runs wrote and showed.

The runs are those of the other end-to-end tests, in whose environment the secrets are too, and a few more here: one with
credentials in the servers' addresses, and ones that fail in the ways in which secrets like to come out.
"""

import base64
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pyarrow.parquet as pq
import pytest

from infra.local import processes
from tests.e2e.conftest import PLANTED, Mill

pytestmark = pytest.mark.timeout(600)

IN_ADDRESSES = ("planted-prefect-in-url", "planted-mlflow-in-url", "planted-endpoint-in-url", "planted-store-in-url")
PLAIN = [*(v for name, v in PLANTED.items() if "://" not in v and name != "MLFLOW_TRACKING_USERNAME"), *IN_ADDRESSES]
PLAIN += ["planted-database-password"]
SPELLINGS = {
    spelling.encode()
    for value in PLAIN
    for spelling in (value, quote(value, safe=""), json.dumps(value)[1:-1], base64.b64encode(value.encode()).decode())
} | {base64.b64encode(f"mill:{PLANTED['MLFLOW_TRACKING_PASSWORD']}".encode())}

# A stage that raises with secrets in its message: in the run's own process, or in a worker process of its pool.
LEAKY = """
import os, sys
from dataclasses import dataclass, replace

@dataclass(frozen=True)
class Task:
    id: str = "part-00000"

def fail(*_):
    try:
        raise KeyError(os.environ["HF_TOKEN"])
    except KeyError as error:
        address = "http://user:planted-endpoint-in-url@host/x"
        raise RuntimeError(f"{address} {os.environ['AWS_SECRET_ACCESS_KEY']} {os.environ['DATABASE_URL']}") from error

def in_worker(work):
    from tasks.engine.map_parts import map_parts
    map_parts(fail, [Task()], work.draft, work.context)

if __name__ == "__main__":
    from infra.local import services
    services.apply_environment()
    import leaky
    from flows import cli, pipeline
    make = {"here": leaky.fail, "worker": leaky.in_worker}[sys.argv[1]]
    first = replace(pipeline.PIPELINE[0], stage=replace(pipeline.PIPELINE[0].stage, make=make))
    pipeline.PIPELINE = (first, *pipeline.PIPELINE[1:])
    cli.main(sys.argv[2:])
"""


def leaks(text: bytes) -> set[bytes]:
    return {value for value in SPELLINGS if value in text}


def api(mill: Mill) -> dict[str, str]:
    return {s["name"]: s["url"] for s in mill.json("status")}


@contextmanager
def watched_command_lines() -> Iterator[set[bytes]]:
    """The secrets that stood in the command line of any process meanwhile."""
    found: set[bytes] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    found.update(leaks(path.read_bytes()))
                except OSError:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()


@pytest.fixture(scope="module")
def runs(mill: Mill) -> dict[str, subprocess.CompletedProcess[str]]:
    """What each way of running showed."""
    config = mill.folder / "undisturbed.toml"
    if not config.exists():  # this file alone
        mill("run", mill.config("undisturbed"), "--json", timeout=500)
    urls = api(mill)
    (mill.folder / "leaky.py").write_text(LEAKY)

    def run(code: int, *arguments: Any, **environment: str) -> subprocess.CompletedProcess[str]:
        return replace(mill, env={**mill.env, **environment})(*arguments, code=code)

    def leaky(where: str) -> subprocess.CompletedProcess[str]:
        path = f"{mill.folder}{os.pathsep}{mill.env['PYTHONPATH']}"
        store = f"store.uri={json.dumps(str(mill.folder / f'store-leaky-{where}'))}"
        command = [sys.executable, str(mill.folder / "leaky.py"), where, "run", str(config), "--set", store]
        env = {**mill.env, "PYTHONPATH": path}
        done = subprocess.run(command, cwd=mill.folder, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 1, done.stderr[-3000:]
        return done

    with watched_command_lines() as seen:
        servers = {
            "PREFECT_API_URL": urls["prefect"].replace("://", "://user:planted-prefect-in-url@"),
            "MLFLOW_TRACKING_URI": urls["mlflow"].replace("://", "://user:planted-mlflow-in-url@"),
        }
        endpoint = {"AWS_ENDPOINT_URL": "http://user:planted-endpoint-in-url@127.0.0.1:9", "AWS_ACCESS_KEY_ID": "mill"}
        with ThreadPoolExecutor() as pool:
            jobs = {
                "addresses": pool.submit(
                    run, 0, "run", config, "--set", "register.model_name=secrets", "--json", **servers
                ),
                "endpoint": pool.submit(run, 75, "run", config, "--set", "store.uri=s3://bucket/x", **endpoint),
                "here": pool.submit(leaky, "here"),
                "worker": pool.submit(leaky, "worker"),
                "config": pool.submit(run, 2, "run", config, "--set", "store.uri=s3://u:planted-store-in-url@bucket/x"),
                "status": pool.submit(run, 0, "status", **servers),
            }
            done = {name: job.result() for name, job in jobs.items()}
    own = leaks(b"\0".join(map(os.fsencode, sys.argv)))
    assert seen - own == {b"planted-store-in-url"}, "only what the user typed"
    return done


def test_the_commands_did_what_they_should(runs):
    result = json.loads(runs["addresses"].stdout)
    assert result["model_version"] == "models:/secrets/1"
    assert "@" not in runs["status"].stdout
    assert "127.0.0.1:" in runs["status"].stdout
    assert "Check AWS_ENDPOINT_URL" in runs["endpoint"].stderr
    assert "belong in the environment" in runs["config"].stderr
    for where in ("here", "worker"):
        assert "RuntimeError: http://host/x *** postgresql+psycopg://127.0.0.1:9/mill" in runs[where].stderr
        assert "KeyError: '***'" in runs[where].stderr


def test_nothing_that_was_shown_holds_a_secret(runs, mill):
    for name, done in runs.items():
        assert leaks((done.stdout + done.stderr).encode()) == set(), name
    for log in mill.folder.glob("*.log"):
        assert leaks(log.read_bytes()) == set(), log


def test_nothing_that_was_written_holds_a_secret(runs, mill):
    """Raw bytes: stores, run records, manifests, both databases, server logs, artefacts, job folders; Parquet as text."""
    time.sleep(2)  # Prefect's client sends log lines in batches
    sizes: dict[str, int] = {}
    for path in mill.folder.rglob("*"):
        if not path.is_file() or path.is_relative_to(mill.folder / "web") or path.name.startswith("leaky."):
            continue
        data = path.read_bytes()
        if path.suffix == ".parquet":
            data += str(pq.read_table(path).to_pylist()).encode()
        assert leaks(data) == set(), path
        sizes[path.name] = sizes.get(path.name, 0) + len(data)
    for name in ("prefect.db", "mlflow.db", "manifest.json", "log", "config.json", "metrics.json", "MLmodel"):
        assert sizes[name] > 0, f"{name} was looked for in vain"


def test_the_failures_are_in_the_databases_without_their_secrets(runs, mill):
    prefect = api(mill)["prefect"].removesuffix("/api")
    query = {"task_runs": {"state": {"type": {"any_": ["FAILED"]}}}, "limit": 50}
    messages = [t["state"]["message"] for t in httpx.post(f"{prefect}/api/task_runs/filter", json=query).json()]
    assert any("http://host/x ***" in str(message) for message in messages), messages
    logs = httpx.post(f"{prefect}/api/logs/filter", json={"sort": "TIMESTAMP_DESC", "limit": 200}).json()
    assert any("***" in line["message"] for line in logs)


def test_the_home_folder_is_the_users_own(runs, mill):
    home = mill.folder / "home"
    assert home.stat().st_mode & 0o077 == 0
    for state in home.glob("services/*/state.json"):
        assert state.stat().st_mode & 0o077 == 0


# Servers --------------------------------------------------------------------------------------------------------------


def listening(mark: str) -> set[str]:
    """The addresses on which processes with this mark listen."""
    links = {link for pid in processes.find_marked(mark) for link in descriptors(pid)}
    found: set[str] = set()
    for family, table in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and f"socket:[{columns[9]}]" in links:
                raw = bytes.fromhex(columns[1].partition(":")[0])
                words = [raw[i : i + 4][::-1] for i in range(0, len(raw), 4)]  # each word in the machine's order
                found.add(socket.inet_ntop(family, b"".join(words)))
    return found


def descriptors(pid: int) -> list[str]:
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(str(path.readlink()))
        except OSError:
            continue
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", ["prefect", "mlflow", "demo-site"])
def test_servers_listen_on_loopback_alone_and_know_no_secret(mill, name):
    mark = str(mill.folder / "home" / "services" / name)
    assert listening(mark) == {"127.0.0.1"}
    for pid in processes.find_marked(mark):
        assert leaks(Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()) == set()


def test_servers_send_no_telemetry_and_let_no_other_page_in(mill):
    urls = api(mill)
    for name, switches in (
        ("prefect", (b"PREFECT_SERVER_ANALYTICS_ENABLED=false", b"DO_NOT_TRACK=true")),
        ("mlflow", (b"MLFLOW_DISABLE_TELEMETRY=true", b"DO_NOT_TRACK=true")),
    ):
        for pid in processes.find_marked(str(mill.folder / "home" / "services" / name)):
            assert set(switches) <= set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    evil = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    for name, path in (("prefect", "/api/flows/filter"), ("mlflow", "/api/2.0/mlflow/experiments/search")):
        url = urls[name].removesuffix("/api") + path
        for answer in (httpx.options(url, headers=evil), httpx.post(url, headers=evil, json={"max_results": 1})):
            assert answer.headers.get("access-control-allow-origin") in (None, urls[name].removesuffix("/api"))
    rebound = httpx.get(urls["mlflow"] + "/api/2.0/mlflow/experiments/search", headers={"Host": "evil.example"})
    assert rebound.status_code == 403
