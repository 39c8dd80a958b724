"""Prefect on Postgres, MLflow on Postgres with artefacts on S3, and a worker, as infra/compose.yaml says: one run through all."""

import contextlib
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest

from infra import services
from tasks.demo.build import build_demo_web
from tests.e2e.conftest import SAMPLE_CONFIG
from tests.integration.topology import ROOT, Topology

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    topology = Topology(tmp_path_factory.mktemp("cluster"))
    try:
        topology.start_postgres()
        topology.start_s3()
        topology.run("bucket")
        topology.start("mlflow", wait=False)
        topology.run("prefect-database")
        topology.start("prefect")
        topology.await_health("mlflow")
        topology.start("worker")
        yield topology
    finally:
        topology.stop()


@pytest.fixture(scope="module")
def s3(cluster: Topology) -> Iterator[Any]:
    env = cluster.client()
    client = boto3.client(
        "s3",
        endpoint_url=env["AWS_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
    )
    yield client
    client.close()


@pytest.fixture
def config(cluster: Topology, tmp_path: Path) -> Iterator[Path]:
    """The end-to-end tests' config on a store in the bucket, and its site served."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAIRMILL_HOME", str(tmp_path / "home"))
        web = build_demo_web(tmp_path / "web", limit=120)
        server = [sys.executable, "-m", "tasks.demo.server", "--directory", str(web.site), "--port", "{port}"]
        site = services.ensure_service("demo-site", server, health_path="/healthz", env={}, port=None)
        text = SAMPLE_CONFIG.format(
            store="s3://pairmill/store",
            archive=web.archive,
            suite=web.suite_root,
            host=web.host,
            site=site.url.removeprefix("http://").rstrip("/"),
            root=ROOT,
            model_name="clustered",
        )
        path = tmp_path / "clustered.toml"
        path.write_text(text.replace("epochs = 12", "epochs = 3"))
        yield path
        services.down()


def pairmill(cluster: Topology, *arguments: str) -> Any:
    command = [sys.executable, "-m", "flows.cli", *arguments, "--json"]
    done = subprocess.run(command, cwd=ROOT, env=cluster.client(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def prefect(cluster: Topology, *arguments: str) -> str:
    command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=cluster.client(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def get(url: str, authorization: str = "") -> int:
    request = urllib.request.Request(url, headers={"Authorization": authorization} if authorization else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def test_no_server_lets_a_stranger_in(cluster: Topology):
    env = cluster.client()
    pages = {
        f"{env['PREFECT_API_URL']}/admin/version": env["PREFECT_API_AUTH_STRING"].partition(":")[2],
        f"{env['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/experiments/search?max_results=1": env[
            "MLFLOW_TRACKING_PASSWORD"
        ],
    }
    for url, password in pages.items():
        assert [get(url), get(url, basic("pairmill", "password")), get(url, basic("pairmill", password))] == [
            401,
            401,
            200,
        ]
    assert get(env["AWS_ENDPOINT_URL"]) == 403


def test_each_server_sees_only_its_own_database(cluster: Topology):
    passwords = cluster.services["postgres"]["environment"]
    owners = {"prefect": passwords["PREFECT_DB_PASSWORD"], "mlflow": passwords["MLFLOW_DB_PASSWORD"]}
    for user, password in owners.items():
        tables = cluster.psql("--command", r"\dt", user=user, password=password, database=user)
        assert ("flow_run" if user == "prefect" else "registered_models") in tables
        other = next(iter(owners.keys() - {user}))
        with pytest.raises(AssertionError, match="permission denied for database"):
            cluster.psql("--command", "select 1", user=user, password=password, database=other)
    assert cluster.psql("--command", "select extname from pg_extension", database="prefect").splitlines() == [
        "plpgsql",
        "pg_trgm",
    ]


def api(cluster: Topology, method: str, path: str, **options: Any) -> Any:
    """One request to the Prefect server."""
    env = cluster.client()
    user, _, password = env["PREFECT_API_AUTH_STRING"].partition(":")
    answer = httpx.request(method, env["PREFECT_API_URL"] + path, auth=(user, password), timeout=20, **options)
    return answer.raise_for_status().json()


def wait(cluster: Topology, flow_run_id: str, condition: Callable[[str], bool], patience_s: float = 150) -> str:
    """Poll until the condition holds of the state of the flow run, or it has ended."""
    deadline, state = time.monotonic() + patience_s, ""
    while True:
        with contextlib.suppress(httpx.TransportError):
            state = api(cluster, "GET", f"/flow_runs/{flow_run_id}")["state_type"]
        if condition(state) or state in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            return state
        assert time.monotonic() < deadline, (state, (cluster.folder / "worker.log").read_text()[-6000:])
        time.sleep(0.2)


def test_a_run_through_worker_servers_and_store_outlives_the_prefect_server(cluster: Topology, config: Path, s3: Any):
    prefect(cluster, "deploy", "--prefect-file", "infra/prefect.yaml", "--name", "pipeline")
    deployment = api(cluster, "GET", "/deployments/name/pipeline/pipeline")
    parameters = {"parameters": {"config": str(config)}, "state": {"type": "SCHEDULED"}}
    flow_run = api(cluster, "POST", f"/deployments/{deployment['id']}/create_flow_run", json=parameters)

    def downloading(state: str) -> bool:
        return bool(s3.list_objects_v2(Bucket="pairmill", Prefix="store/download/").get("Contents"))

    print("s", time.strftime("%X"))
    assert wait(cluster, flow_run["id"], downloading) == "RUNNING", (cluster.folder / "worker.log").read_text()[-6000:]
    cluster.kill("prefect")
    print("k", time.strftime("%X"))
    time.sleep(3)
    cluster.start("prefect")
    print("r", time.strftime("%X"))
    state = wait(cluster, flow_run["id"], lambda state: False)
    print(state, time.strftime("%X"))
    print((cluster.folder / "worker.log").read_text()[-6000:])
    print(pairmill(cluster, "runs", "--store", "s3://pairmill/store"))
    assert 0
