"""infra/compose.yaml, as resolved by `docker compose config`."""

import pytest

from plugins.deployment import dotenv
from plugins.deployment.tests.topology import resolve_compose

pytestmark = pytest.mark.xdist_group("cluster")


@pytest.fixture
def env_file(tmp_path):
    path = tmp_path / ".env"
    path.write_text(dotenv.fill_secrets(dotenv.EXAMPLE.read_text()))
    return path


def test_compose_names_missing_secrets(tmp_path):
    (tmp_path / ".env").write_text("")
    with pytest.raises(AssertionError, match=r"required variable [A-Z_]+ is missing a value: set it in infra/\.env"):
        resolve_compose(tmp_path / ".env")


def test_default_profile_has_no_s3_server_and_no_gpu(env_file):
    with env_file.open("a") as file:
        file.write("AWS_ENDPOINT_URL=https://s3.example.org\nPAIRMILL_BUCKET=ours\n")
    services = resolve_compose(env_file, "--profile", "none")["services"]
    assert set(services) == {"postgres", "prefect-database", "prefect", "bucket", "mlflow", "worker"}
    assert services["worker"]["environment"]["AWS_ENDPOINT_URL"] == "https://s3.example.org"
    assert services["bucket"]["command"][-1] == "ours"
    assert "--artifacts-destination=s3://ours/mlflow" in services["mlflow"]["command"]


def test_profiles_add_the_s3_server_and_the_gpu_worker(env_file):
    services = resolve_compose(env_file, "--profile", "s3", "--profile", "gpu")["services"]
    (device,) = services["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"], device["count"]) == ("nvidia", ["gpu"], -1)
    assert services["worker-gpu"]["build"]["target"] == "cuda"
    assert services["bucket"]["depends_on"]["s3"]["condition"] == "service_healthy"
    published = {p["host_ip"] for service in services.values() for p in service.get("ports", [])}
    assert published == {"127.0.0.1"}


def test_no_secret_is_on_a_command_line(env_file):
    secrets = {line.split("=", 1)[1] for line in env_file.read_text().splitlines() if line[:1].isalpha()}
    services = resolve_compose(env_file)["services"]
    words = [word for service in services.values() for word in service["command"]]
    words += [word for service in services.values() for word in service.get("healthcheck", {}).get("test", [])]
    assert len(secrets) >= 8
    assert not [word for word in words if any(secret in word for secret in secrets)]
