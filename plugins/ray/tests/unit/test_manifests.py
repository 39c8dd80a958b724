"""The manifests of a Ray cluster, against the fields of Kubernetes, KubeRay and SkyPilot, and Ray's autoscaler."""

import re
import subprocess
from typing import Any, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter

from dataops.home import CHECKOUT

MANIFESTS = CHECKOUT / "infra/kubernetes"
SECRETS = re.compile("TOKEN|SECRET|PASSWORD|AUTH_STRING|_KEY")


class _Exact(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


Pod = dict[Literal["metadata", "spec"], dict[str, Any]]


# The fields that are used here of ray-operator/apis/ray/v1/raycluster_types.go and rayjob_types.go of KubeRay 1.4.
class Autoscaler(_Exact):
    upscalingMode: Literal["Default", "Aggressive", "Conservative"]
    idleTimeoutSeconds: int
    env: list[dict[str, Any]]
    securityContext: dict[str, Any]


class Head(_Exact):
    rayStartParams: dict[str, str]
    template: Pod


class Workers(Head):
    groupName: str
    replicas: int
    minReplicas: int
    maxReplicas: int


class Cluster(_Exact):
    rayVersion: str
    enableInTreeAutoscaling: bool
    autoscalerOptions: Autoscaler
    headGroupSpec: Head
    workerGroupSpecs: list[Workers]


class Submitter(_Exact):
    backoffLimit: int


class Job(_Exact):
    clusterSelector: dict[str, str]
    entrypoint: str
    entrypointNumCpus: float
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode"]
    submitterConfig: Submitter
    submitterPodTemplate: Pod


class Sky(_Exact):
    """Of SkyPilot's page `SkyPilot YAML`."""

    name: str
    num_nodes: int
    workdir: str
    resources: dict[Literal["cpus", "memory", "disk_size", "use_spot", "autostop"], Any]
    envs: dict[str, str]
    secrets: dict[str, Literal[""] | None]
    setup: str
    run: str


def load(path):
    return yaml.safe_load(path.read_text())


def check_pod(pod):
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="the extra `dev` has it")
    manifest = {"apiVersion": "v1", "kind": "Pod", **pod}
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    (container,) = pod["spec"]["containers"]
    assert pod["spec"]["securityContext"]["runAsNonRoot"]
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    named = {variable["name"]: variable for variable in container["env"]}
    assert named["RAY_AUTH_MODE"]["value"] == "token", "without it, whoever reaches the head runs code"
    assert not [name for name, one in named.items() if SECRETS.search(name) and "value" in one]


def test_ray_cluster_of_kuberay_grows_from_zero_and_has_a_login():
    manifest = load(MANIFESTS / "ray-cluster.yaml")
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayCluster")
    cluster = TypeAdapter(Cluster).validate_python(manifest["spec"])
    for pod in (cluster.headGroupSpec.template, cluster.workerGroupSpecs[0].template):
        check_pod(pod)
    assert cluster.enableInTreeAutoscaling
    assert cluster.headGroupSpec.rayStartParams["num-cpus"] == "0"
    assert cluster.workerGroupSpecs[0].minReplicas == 0
    pinned = re.search(r"^ray==(.+)$", (CHECKOUT / "constraints.txt").read_text(), re.MULTILINE)
    assert cluster.rayVersion == pinned[1], "the version of the image"


def test_rays_own_autoscaler_reads_the_cluster():
    module = "ray.autoscaler._private.kuberay.autoscaling_config"
    config = pytest.importorskip(module, reason="Ray is not installed")._derive_autoscaling_config_from_ray_cr(
        load(MANIFESTS / "ray-cluster.yaml") | {"metadata": {"name": "pairmill", "namespace": "pairmill"}}
    )
    workers = config["available_node_types"]["cpu"]
    assert (workers["min_workers"], workers["max_workers"]) == (0, 100)
    assert (workers["resources"]["CPU"], workers["resources"]["memory"]) == (16, 48 << 30)
    assert config["available_node_types"][config["head_node_type"]]["resources"]["CPU"] == 0


def test_ray_job_runs_a_config_on_that_cluster():
    manifest = load(MANIFESTS / "ray-job.yaml")
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    job = TypeAdapter(Job).validate_python(
        manifest["spec"] | {"entrypointNumCpus": float(manifest["spec"]["entrypointNumCpus"])}
    )
    check_pod(job.submitterPodTemplate)
    assert job.clusterSelector == {"ray.io/cluster": load(MANIFESTS / "ray-cluster.yaml")["metadata"]["name"]}
    mounts = load(MANIFESTS / "ray-cluster.yaml")["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0][
        "volumeMounts"
    ]
    assert job.entrypoint.split()[2].startswith("/config/")
    assert "/config" in [mount["mountPath"] for mount in mounts]


def test_skypilot_task_has_known_fields_a_login_and_no_secret():
    task = TypeAdapter(Sky).validate_python(load(CHECKOUT / "infra/skypilot.yaml"))
    assert not [name for name in task.envs if SECRETS.search(name)]
    assert (task.envs["RAY_AUTH_MODE"], "RAY_AUTH_TOKEN" in task.secrets) == ("token", True)
    for script in (task.setup, task.run):
        assert subprocess.run(["bash", "-n", "-c", script], capture_output=True).stderr == b""
