"""Fixtures of the tests of register: an MLflow server, the snapshots before register, and a registered model."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from dataops.snapshot import Manifest
from tasks.engine import stage
from tests.integration.register.snapshots import build_snapshots, plan_registration
from tests.servers.mlflow_server import ENVIRONMENT, serve_mlflow


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start an MLflow server; return its URL."""
    with serve_mlflow(tmp_path_factory.mktemp("mlflow")) as url:
        yield url


@pytest.fixture(scope="session")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Return the snapshots before register; they are shared, so tests only add to their store."""
    return build_snapshots(tmp_path_factory.mktemp("upstream"))


@pytest.fixture
def environment(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Set the environment variables of MLflow; returns the URL of the server."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    return server


@pytest.fixture
def registered(environment: str, upstream: SimpleNamespace) -> tuple[Manifest, stage.Plan, stage.Context]:
    """Return a registered `clip-demo`: its manifest, plan and context."""
    plan, context = plan_registration(upstream, model_name="clip-demo", floors={"twemoji-seen/top1": 0.02})
    manifest = stage.reuse(plan, context) or stage.make(plan, context)
    return manifest, plan, context
