"""The job template of the GPU pool: a real Prefect server takes it, the real Kubernetes worker renders it, and the job is valid."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import kubernetes_validate
import pytest

from infra import services

pytestmark = pytest.mark.timeout(180)

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "infra/kubernetes/gpu-job-template.json"
# Rendered by the class that the worker in the cluster runs, in a process of its own: importing it warns.
RENDER = """
import asyncio, json, sys
from uuid import UUID
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_AUTH_STRING, temporary_settings
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

async def main():
    template, values = json.load(sys.stdin)
    async with get_client() as client:
        made = await KubernetesWorkerJobConfiguration.from_template_and_values(template, values, client=client)
    run = FlowRun(id=UUID("00000000-0000-0000-0000-000000000001"), flow_id=UUID("00000000-0000-0000-0000-000000000002"),
                  name="eager-otter")
    with temporary_settings({PREFECT_API_AUTH_STRING: "pairmill:hidden"}):
        made.prepare_for_flow_run(run)
    print(json.dumps(made.job_manifest))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def prefect_env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("kubernetes")
    with pytest.MonkeyPatch.context() as patch:
        for variable in services.CLIENT_VARIABLE.values():
            patch.delenv(variable, raising=False)
        patch.setenv("PAIRMILL_HOME", str(folder))
        command = replace(services.PREFECT, port=None)
        with services.supervisor.locked(folder / "services"):
            (record,) = services.supervisor.ensure(folder / "services", [command], 90)
        yield {**os.environ, "PREFECT_API_URL": f"{record.url}/api", "PREFECT_HOME": str(folder / "client")}
        services.down()


def prefect(env: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def render(env: dict[str, str], values: dict[str, Any]) -> dict[str, Any]:
    template = json.loads(TEMPLATE.read_text())
    done = subprocess.run(
        [sys.executable, "-c", RENDER],
        env=env,
        input=json.dumps([template, values]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_prefect_makes_a_work_pool_of_it(prefect_env: dict[str, str]):
    name = f"pairmill-gpu-{uuid4().hex[:6]}"
    prefect(prefect_env, "work-pool", "create", name, "--type", "kubernetes", "--base-job-template", str(TEMPLATE))
    shown = json.loads(prefect(prefect_env, "work-pool", "inspect", name, "--output", "json"))
    assert (shown["type"], shown["base_job_template"]) == ("kubernetes", json.loads(TEMPLATE.read_text()))


def test_the_worker_renders_a_valid_job(prefect_env: dict[str, str]):
    env = {"MLFLOW_TRACKING_URI": "http://mlflow:5000"}
    job = render(prefect_env, {"image": "registry.example.org/pairmill:cuda", "gpus": 2, "env": env})
    pod = job["spec"]["template"]["spec"]
    checked = deepcopy(job)
    for misplaced in (
        "parallelism",
        "completions",
    ):  # Prefect's worker insists on them in the pod, Kubernetes drops them
        del checked["spec"]["template"]["spec"][misplaced]
    kubernetes_validate.validate(checked, kubernetes_validate.latest_version(), strict=True)
    assert "{{" not in json.dumps(job)
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert (job["spec"]["backoffLimit"], job["spec"]["ttlSecondsAfterFinished"]) == (0, 3600)
    assert pod["terminationGracePeriodSeconds"] >= 60
    assert pod["securityContext"]["runAsNonRoot"]
    assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/dev/shm", "/tmp"}
    given = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert given["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    # A pod that is moved away gives its flow run back, so that another one goes on from the checkpoint.
    assert given["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "reschedule"
    secret = {entry["name"]: entry["valueFrom"]["secretKeyRef"] for entry in container["env"] if "valueFrom" in entry}
    assert {"AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD"} <= secret.keys()
    assert {reference["name"] for reference in secret.values()} == {"pairmill"}


def test_a_template_without_an_image_or_with_a_wrong_value_is_refused(prefect_env: dict[str, str]):
    for values, complaint in (({}, "image"), ({"image": "x", "gpus": "many"}, "")):
        with pytest.raises(AssertionError, match=complaint):
            job = render(prefect_env, values)
            del job["spec"]["template"]["spec"]["parallelism"], job["spec"]["template"]["spec"]["completions"]
            kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
