"""Secrets in the environment (conftest.PLANTED) and in URLs are not in anything that runs write or print.

The tests check the runs of the other end-to-end tests, which have the secrets in their environment too, and a few more: one
with credentials in the URLs of the servers, and some that fail with secrets in their messages.
"""

import base64
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import httpx
import psutil
import pyarrow.parquet as pq
import pytest

from infra.local import services
from infra.local import supervisor as processes
from tests.servers.prefect_api import PrefectApi
from tests.small_pipeline import PLANTED

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("deploy")]

IN_URLS = ("planted-mlflow-in-url", "planted-endpoint-in-url", "planted-store-in-url")
PLAIN = [*(v for name, v in PLANTED.items() if "://" not in v and name != "MLFLOW_TRACKING_USERNAME"), *IN_URLS]
PLAIN += ["planted-database-password"]


def spell(*values):
    """Return the values as they are, and as in URLs, JSON and HTTP Basic authentication."""
    return {
        spelling.encode()
        for value in values
        for spelling in (
            value,
            quote(value, safe=""),
            json.dumps(value)[1:-1],
            base64.b64encode(value.encode()).decode(),
        )
    }


SPELLINGS = spell(*PLAIN) | {base64.b64encode(f"mill:{PLANTED['MLFLOW_TRACKING_PASSWORD']}".encode())}

# A stage that raises an error with secrets in its message, in the process of the run or in a worker process.
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


def login_spellings():
    """Return the spellings of the login of the Prefect server, and of its password alone."""
    login = services.show_login()
    return spell(login, login.partition(":")[2])


def find_secrets(text):
    return {value for value in SPELLINGS | login_spellings() if value in text}


def api(pairmill):
    return {s["name"]: s["url"] for s in pairmill.json("status")}


@contextmanager
def watch_command_lines():
    """Collect the secrets that are in the command line of any process meanwhile."""
    found, searched = set(), set()
    ended = threading.Event()

    def watch():
        while not ended.wait(0.05):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = path.read_bytes()
                except OSError:
                    continue
                if line not in searched:  # finding secrets in all of them each time takes a third of a core
                    searched.add(line)
                    found.update(find_secrets(line))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()


@pytest.fixture(scope="module")
def runs(pairmill, reusing_config):
    """Run commands in several ways and return their outputs."""
    config = reusing_config
    urls = api(pairmill)
    (pairmill.folder / "leaky.py").write_text(LEAKY)

    def run(code, *arguments, **environment):
        return replace(pairmill, env={**pairmill.env, **environment}, warm=None)(*arguments, code=code)

    def leaky(where):
        path = f"{pairmill.folder}{os.pathsep}{pairmill.env['PYTHONPATH']}"
        store = f"store.uri={json.dumps(str(pairmill.folder / f'store-leaky-{where}'))}"
        command = [sys.executable, str(pairmill.folder / "leaky.py"), where, "run", str(config), "--set", store]
        env = {**pairmill.env, "PYTHONPATH": path}
        done = subprocess.run(command, cwd=pairmill.folder, env=env, capture_output=True, text=True, timeout=500)
        assert done.returncode == 1, done.stderr[-3000:]
        return done

    with watch_command_lines() as command_lines:
        servers = {
            "PREFECT_API_URL": urls["prefect"].replace("://", f"://{services.show_login()}@"),
            "PREFECT_API_AUTH_STRING": services.show_login(),  # Prefect's WebSockets need it, whatever is in the URL
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
    own = find_secrets(b"\0".join(map(os.fsencode, sys.argv)))
    assert command_lines - own == {b"planted-store-in-url"}, "only the secret that the user typed"
    return done


def test_commands_succeed_or_fail_as_expected(runs):
    result = json.loads(runs["addresses"].stdout)
    assert result["model_version"] == "models:/secrets/1"
    assert "@" not in runs["status"].stdout
    assert "127.0.0.1:" in runs["status"].stdout
    assert "Check AWS_ENDPOINT_URL" in runs["endpoint"].stderr
    assert "belong in the environment" in runs["config"].stderr
    for where in ("here", "worker"):
        assert "RuntimeError: http://host/x *** postgresql+psycopg://127.0.0.1:9/mill" in runs[where].stderr
        assert "KeyError: '***'" in runs[where].stderr


def test_no_output_has_a_secret(runs, pairmill):
    for name, done in runs.items():
        assert find_secrets((done.stdout + done.stderr).encode()) == set(), name
    for log in pairmill.folder.glob("*.log"):
        assert find_secrets(log.read_bytes()) == set(), log


def test_no_written_file_has_a_secret(runs, pairmill):
    """Search the raw bytes of stores, records, manifests, databases, logs, artefacts and job folders; Parquet as text."""
    time.sleep(2)  # Prefect's client sends log lines in batches
    sizes = {}
    for path in pairmill.folder.rglob("*"):
        if not path.is_file() or path.is_relative_to(pairmill.folder / "web") or path.name.startswith("leaky."):
            continue
        if path == pairmill.folder / "home" / "prefect-login":
            assert path.stat().st_mode & 0o077 == 0
            continue
        data = path.read_bytes()
        if path.suffix == ".parquet":
            data += str(pq.read_table(path).to_pylist()).encode()
        assert find_secrets(data) == set(), path
        sizes[path.name] = sizes.get(path.name, 0) + len(data)
    for name in ("prefect.db", "mlflow.db", "manifest.json", "log", "config.json", "metrics.json", "MLmodel"):
        assert sizes[name] > 0, f"there is no file {name}"


def test_databases_have_the_failures_without_secrets(runs, pairmill):
    prefect = PrefectApi(api(pairmill)["prefect"])
    failed = prefect.post("task_runs/filter", {"task_runs": {"state": {"type": {"any_": ["FAILED"]}}}, "limit": 50})
    messages = [task["state"]["message"] for task in failed]
    assert any("http://host/x ***" in str(message) for message in messages), messages
    logs = prefect.post("logs/filter", {"sort": "TIMESTAMP_DESC", "limit": 200})
    assert any("***" in line["message"] for line in logs)


def test_home_folder_is_readable_only_by_its_user(runs, pairmill):
    home = pairmill.folder / "home"
    assert home.stat().st_mode & 0o077 == 0
    for state in home.glob("services/*/state.json"):
        assert state.stat().st_mode & 0o077 == 0


# Servers --------------------------------------------------------------------------------------------------------------


def listening_addresses(mark):
    """Return the IP addresses on which processes with this mark listen."""
    connections = [c for pid in processes.find_marked(mark) for c in psutil.Process(pid).net_connections("tcp")]
    return {connection.laddr.ip for connection in connections if connection.status == psutil.CONN_LISTEN}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", ["prefect", "mlflow"])
def test_servers_listen_only_on_loopback_and_get_no_secret(pairmill, name):
    mark = str(pairmill.folder / "home" / "services" / name)
    assert listening_addresses(mark) == {"127.0.0.1"}
    for pid in processes.find_marked(mark):
        own = login_spellings() if name == "prefect" else set()
        assert find_secrets(Path(f"/proc/{pid}/environ").read_bytes()) <= own
        assert find_secrets(Path(f"/proc/{pid}/cmdline").read_bytes()) == set()


def test_servers_send_no_telemetry_and_refuse_other_origins(pairmill):
    urls = api(pairmill)
    for name, switches in (
        ("prefect", (b"PREFECT_SERVER_ANALYTICS_ENABLED=false", b"DO_NOT_TRACK=true")),
        ("mlflow", (b"MLFLOW_DISABLE_TELEMETRY=true", b"DO_NOT_TRACK=true")),
    ):
        for pid in processes.find_marked(str(pairmill.folder / "home" / "services" / name)):
            assert set(switches) <= set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    evil = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    for name, path in (("prefect", "/api/flows/filter"), ("mlflow", "/api/2.0/mlflow/experiments/search")):
        url = urls[name].removesuffix("/api") + path
        for answer in (
            httpx.options(url, headers=evil, timeout=60),
            httpx.post(url, headers=evil, json={"max_results": 1}, timeout=60),
        ):
            assert answer.headers.get("access-control-allow-origin") in (None, urls[name].removesuffix("/api"))
    rebound = httpx.get(
        urls["mlflow"] + "/api/2.0/mlflow/experiments/search", headers={"Host": "evil.example"}, timeout=60
    )
    assert rebound.status_code == 403
