"""One run on the cluster of infra/compose.yaml: Prefect and MLflow with Postgres, artefacts and store on S3, a worker."""

import contextlib
import hashlib
import json
import time
import urllib.error
import urllib.request
from base64 import b64encode
from dataclasses import replace

import boto3
import httpx
import pytest

from dataops.errors import StorageError
from dataops.home import CHECKOUT
from plugins.deployment.bucket import create_bucket
from tasks.tracking import client as tracking
from tests.servers.warm_commands import warm_commands
from tests.small_pipeline import Pairmill, write_config
from tests.small_web import build_small_web, serve_site

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("cluster")]


@pytest.fixture(scope="module")
def s3(cluster):
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
def config(tmp_path):
    """Write the config of the small pipeline with a store in the bucket, and serve its site."""
    web = build_small_web(tmp_path / "web")
    with serve_site(web) as site:
        changed = {"train": {"epochs": 3}, "register": {"model_name": "clustered"}}
        yield write_config(tmp_path / "clustered.toml", web, site, "s3://pairmill/store", **changed)


@pytest.fixture(scope="module")
def pairmill(cluster):
    """Return the command in the worker's environment."""
    env = cluster.client() | {"PYTHONPATH": str(CHECKOUT)}
    with warm_commands(env) as warm:
        yield Pairmill(cluster.folder, None, "", env, warm)


def get(url, authorization=""):
    request = urllib.request.Request(url, headers={"Authorization": authorization} if authorization else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def basic(user, password):
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def test_servers_refuse_requests_without_the_password(cluster):
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


def test_each_server_sees_only_its_own_database(cluster):
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


def api(cluster, method, path, **options):
    """Send one request to the Prefect server."""
    env = cluster.client()
    user, _, password = env["PREFECT_API_AUTH_STRING"].partition(":")
    # verify=False: plain HTTP, and reading all certificates of the system takes longer than the request.
    with httpx.Client(auth=(user, password), timeout=20, verify=False) as client:
        return client.request(method, env["PREFECT_API_URL"] + path, **options).raise_for_status().json()


def wait(cluster, flow_run_id, condition=lambda state: False):
    """Poll until the condition holds for the flow run's state, or it has ended, and return the state."""
    deadline, state = time.monotonic() + 400, ""
    while True:
        with contextlib.suppress(httpx.TransportError):
            state = api(cluster, "GET", f"/flow_runs/{flow_run_id}")["state_type"]
        if condition(state) or state in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            return state
        assert time.monotonic() < deadline, (state, (cluster.folder / "worker.log").read_text()[-6000:])
        time.sleep(0.5)


def wait_for_pool(cluster):
    """Poll until the worker has created its work pool."""
    deadline = time.monotonic() + 120
    while True:
        try:
            api(cluster, "GET", "/work_pools/pairmill")
            return
        except httpx.HTTPError:
            assert time.monotonic() < deadline, (cluster.folder / "worker.log").read_text()[-6000:]
            time.sleep(0.5)


def test_create_bucket_is_idempotent_and_names_a_refusal(cluster, monkeypatch):
    for name, value in cluster.client().items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    assert [create_bucket("made-by-a-test"), create_bucket("made-by-a-test")] == [True, False]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match=r"cannot create bucket other: .*Check AWS_ENDPOINT_URL"):
        create_bucket("other")


@pytest.mark.long
def test_run_on_the_cluster_survives_a_restart_of_the_prefect_server(cluster, config, s3, pairmill):
    wait_for_pool(cluster)
    flow = api(cluster, "POST", "/flows/", json={"name": "pipeline"})
    step = {"prefect.deployments.steps.set_working_directory": {"directory": str(CHECKOUT)}}
    deployment = {"name": "cluster", "flow_id": flow["id"], "work_pool_name": "pairmill", "pull_steps": [step]}
    deployment = api(cluster, "POST", "/deployments/", json=deployment | {"entrypoint": "flows/pipeline.py:pipeline"})
    scheduled = {"parameters": {"config": str(config)}, "state": {"type": "SCHEDULED"}}
    flow_run = api(cluster, "POST", f"/deployments/{deployment['id']}/create_flow_run", json=scheduled)["id"]

    def keys(prefix):
        return [item["Key"] for item in s3.list_objects_v2(Bucket="pairmill", Prefix=prefix).get("Contents", [])]

    state = wait(cluster, flow_run, lambda state: bool(keys("store/download/")))
    assert state == "RUNNING", (cluster.folder / "worker.log").read_text()[-6000:]
    cluster.kill("prefect")
    cluster.start("prefect")
    assert wait(cluster, flow_run) == "COMPLETED", (cluster.folder / "worker.log").read_text()[-6000:]

    (run,) = pairmill.json("runs", "--store", "s3://pairmill/store")
    assert (run["state"], run["model_version"]) == ("completed", "models:/clustered/1")
    # The registered model's weights are in the bucket, the very bytes that training committed to the store.
    shown = pairmill.json("show", run["run_id"], "--store", "s3://pairmill/store")
    (train,) = (stage for stage in shown["stages"] if stage["stage"] == "train")
    weights = {part["sha256"] for part in train["parts"] if part["name"].endswith(".safetensors")}
    artefacts = [key for key in keys("mlflow/") if key.endswith(".safetensors")]
    bodies = [s3.get_object(Bucket="pairmill", Key=key)["Body"].read() for key in artefacts]
    assert weights & {hashlib.sha256(body).hexdigest() for body in bodies}
    assert cluster.psql("--command", "select name, version from model_versions", database="mlflow") == "clustered|1"
    query = f"select state_type from flow_run where id = '{flow_run}'"
    assert cluster.psql("--command", query, database="prefect") == "COMPLETED"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.client().items():
            patch.setenv(name, value)
        _check_lineage(shown)


def _check_lineage(shown):
    """Check the version, the inputs and the metrics of the run, in Postgres."""
    client, stages = tracking.connect(), {stage["stage"]: stage for stage in shown["stages"]}
    version = client.get_model_version_by_alias("clustered", "champion")
    assert (version.version, version.tags["gate"]) == ("1", "passed")
    run = client.get_run(str(version.run_id))
    assert run.info.status == "FINISHED"
    pack = f"pack-{stages['pack']['key']}"
    inputs = {one.dataset.name: one for one in run.inputs.dataset_inputs}
    assert {pack, "shapes-seen", "shapes-retrieval"} <= inputs.keys()
    assert json.loads(inputs[pack].dataset.source) == {"uri": f"s3://pairmill/store/pack/{stages['pack']['key']}"}
    (model,) = client.search_logged_models([run.info.experiment_id], "name = 'clip'")
    used = {metric.key: metric.dataset_name for metric in model.metrics or []}
    assert used["train/final_loss"] == pack


def test_doctor_accepts_the_cluster_and_names_wrong_settings(cluster, pairmill):
    def checks(code, **changed):
        command = replace(pairmill, env=pairmill.env | changed)
        found = command.json("doctor", "--store", "s3://pairmill/store", code=code)
        secrets = {value for name, value in cluster.client().items() if "PASSWORD" in name or "SECRET" in name}
        assert not [secret for secret in secrets if secret in json.dumps(found)]
        return {check["name"]: check for check in found if check["name"] != "checkout"}

    accepted = checks(code=2 if foreign_checkout() else 0)
    names = {
        "prefect server",
        "prefect version",
        "mlflow server",
        "mlflow version",
        "store",
        "clock",
    }
    assert {name for name, check in accepted.items() if check["ok"]} >= names | {"store races"}

    wrong = {
        "PREFECT_API_AUTH_STRING": "pairmill:wrong",
        "MLFLOW_TRACKING_PASSWORD": "wrong",
        "AWS_SECRET_ACCESS_KEY": "wrong",
    }
    found = checks(code=2, **wrong)
    for name, complaint in {
        "prefect server": "refuses access (HTTP 401)",
        "mlflow server": "refuses access (HTTP 401)",
        "store": "AWS_SECRET_ACCESS_KEY",
    }.items():
        assert not found[name]["ok"]
        assert complaint in found[name]["detail"], found[name]


def foreign_checkout():
    """Return whether these tests run from another checkout than the installed one, which the doctor reports."""
    return not pytest.importorskip("plugins.doctor.installation").check_checkout().ok
