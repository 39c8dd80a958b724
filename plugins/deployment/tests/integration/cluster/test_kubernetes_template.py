"""The job templates of both pools are valid for Prefect, for its Kubernetes worker, and for the schema of Kubernetes."""

import json
import shlex
import subprocess
import sys
from copy import deepcopy
from uuid import uuid4

import httpx
import pytest
import yaml

from dataops.home import CHECKOUT

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="the extras `kubernetes` and `dev` have it")
pytestmark = [pytest.mark.timeout(180), pytest.mark.xdist_group("cluster")]

KUBERNETES = CHECKOUT / "infra/kubernetes"
KINDS = {"gpu": {"gpus": 2}, "nodes": {"gpus": 2, "nodes": 4, "store": "s3://bucket/mill"}, "cpu": {}}
"""Templates, and job variables of each."""
# Rendered by the class of the real worker, in a separate process, because importing it warns.
RENDER = """
import asyncio, json, sys
from uuid import UUID
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

async def main():
    async with get_client() as client:
        make = KubernetesWorkerJobConfiguration.from_template_and_values
        jobs = [await make(template, values, client=client) for template, values in json.load(sys.stdin)]
    run = FlowRun(id=UUID("00000000-0000-0000-0000-000000000001"), flow_id=UUID("00000000-0000-0000-0000-000000000002"),
                  name="eager-otter")
    for job in jobs:
        job.prepare_for_flow_run(run)
    print(json.dumps([job.job_manifest for job in jobs]))

asyncio.run(main())
"""


def load_template(kind):
    return json.loads((KUBERNETES / f"{kind}-job-template.json").read_text())


@pytest.fixture(scope="module")
def jobs(cluster):
    """Return the rendered job of each template."""
    env, asked = {"MLFLOW_TRACKING_URI": "http://mlflow:5000"}, []
    for kind, more in KINDS.items():
        asked.append((load_template(kind), {"image": f"registry.example.org/pairmill:{kind}", "env": env} | more))
    command, text = [sys.executable, "-c", RENDER], json.dumps(asked)
    done = subprocess.run(command, env=cluster.client(), input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip(KINDS, json.loads(done.stdout.splitlines()[-1]), strict=True))


def test_prefect_creates_a_work_pool_from_the_template(cluster):
    name, template = f"pairmill-gpu-{uuid4().hex[:6]}", str(KUBERNETES / "gpu-job-template.json")
    command = ["work-pool", "create", name, "--type", "kubernetes", "--base-job-template", template]
    env = cluster.client()
    subprocess.run([sys.executable, "-m", "prefect", "--no-prompt", *command], env=env, capture_output=True, check=True)
    login = tuple(env["PREFECT_API_AUTH_STRING"].split(":", 1))
    shown = httpx.get(f"{env['PREFECT_API_URL']}/work_pools/{name}", auth=login, timeout=60).json()
    assert (shown["type"], shown["base_job_template"]) == ("kubernetes", load_template("gpu"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_worker_renders_a_valid_job(jobs, kind):
    job = jobs[kind]
    pod = job["spec"]["template"]["spec"]
    checked = deepcopy(job)
    for misplaced in (
        "parallelism",
        "completions",
    ):  # Prefect's worker writes them into the pod, and Kubernetes ignores them there
        del checked["spec"]["template"]["spec"][misplaced]
    kubernetes_validate.validate(checked, kubernetes_validate.latest_version(), strict=True)
    assert "{{" not in json.dumps(job)
    (container,) = pod["containers"]
    assert container["resources"]["limits"].get("nvidia.com/gpu") == KINDS[kind].get("gpus")
    assert ("nvidia.com/gpu" in json.dumps(job)) == ("gpus" in KINDS[kind])
    assert (job["spec"]["backoffLimit"], job["spec"]["ttlSecondsAfterFinished"]) == (0, 3600)
    assert pod["terminationGracePeriodSeconds"] >= 60
    assert pod["securityContext"]["runAsNonRoot"]
    assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/dev/shm", "/tmp"}
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert variables["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    # An evicted pod reschedules its flow run, so that another pod resumes from the checkpoint.
    assert variables["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "reschedule"
    read = {entry["name"]: entry["valueFrom"] for entry in container["env"] if "valueFrom" in entry}
    secret = {name: value["secretKeyRef"] for name, value in read.items() if "secretKeyRef" in value}
    assert {"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_PASSWORD"} <= secret.keys()
    assert {reference["name"] for reference in secret.values()} == {"pairmill"}


def test_pods_of_a_training_on_several_machines_find_the_first_one_which_runs_the_flow(jobs):
    spec, network = jobs["nodes"]["spec"], [*yaml.safe_load_all((KUBERNETES / "training-network.yaml").read_text())]
    assert (spec["completionMode"], spec["parallelism"], spec["completions"]) == ("Indexed", 4, 4)
    (container,) = spec["template"]["spec"]["containers"]
    assert shlex.join(container["args"]) == "pairmill node --store s3://bucket/mill -- prefect flow-run execute"
    names = [entry["name"] for entry in container["env"]]
    assert names.index("PAIRMILL_JOB_NAME") < names.index("PAIRMILL_NODE_0"), "else it is not expanded"
    service = network[0]["metadata"]["name"]
    assert container["env"][names.index("PAIRMILL_NODE_0")]["value"] == f"$(PAIRMILL_JOB_NAME)-0.{service}"
    assert spec["template"]["spec"]["subdomain"] == service
    assert network[0]["spec"]["selector"].items() <= spec["template"]["metadata"]["labels"].items()
