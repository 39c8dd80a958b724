"""Databases of the last minor versions but one of Prefect and MLflow, which the servers of today open."""

import lzma
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest

from dataops.errors import ServiceError
from infra.local import services

pytestmark = pytest.mark.timeout(600)
STORED = Path(__file__).parents[1] / "data" / "stored"
OLD = {"mlflow": "3.15.2", "prefect": "3.7.8"}
"""With an experiment, a run, and a version with an alias; with a flow."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a home whose servers ended with the old versions."""
    folder = tmp_path_factory.mktemp("old") / "home"
    with pytest.MonkeyPatch.context() as patch:
        for name in (*services.client_environment(), *services.CLIENT_VARIABLE.values()):
            patch.delenv(name, raising=False)
        patch.setenv("PAIRMILL_HOME", str(folder))
        for server in ("PREFECT", "MLFLOW"):
            patch.setattr(services, server, replace(getattr(services, server), port=None))
        for name, release in OLD.items():
            place = folder / "services" / name
            place.mkdir(parents=True)
            (place / f"{name}.db").write_bytes(lzma.decompress((STORED / f"{name}-{release}.db.xz").read_bytes()))
            (place / f"{name}.version").write_text(release)
        yield folder
        services.down()


def ask(name: str, path: str, body: object) -> object:
    base = next(service.url for service in services.status() if service.name == name)
    answer = httpx.post(f"{base}{path}", json=body, headers=services.authorization(f"{base}{path}"), timeout=60)
    return answer.raise_for_status().json()


def test_old_databases_are_migrated_with_a_copy(home: Path):
    services.up()
    assert [flow["name"] for flow in ask("prefect", "/flows/filter", {})] == ["curate"]  # pyright: ignore
    runs = ask("mlflow", "/api/2.0/mlflow/runs/search", {"experiment_ids": ["1"]})
    assert runs["runs"][0]["data"]["metrics"][0]["value"] == 0.25  # pyright: ignore
    for name, release in OLD.items():
        place = home / "services" / name
        assert (place / f"{name}.version").read_text() == version(name)
        with closing(sqlite3.connect(place / f"{name}-{release}.db")) as copy:
            (before,) = copy.execute("select version_num from alembic_version").fetchone()
        with closing(sqlite3.connect(place / f"{name}.db")) as now:
            (after,) = now.execute("select version_num from alembic_version").fetchone()
        assert before != after


def test_database_of_a_newer_version_is_refused_with_the_remedy_and_not_changed(home: Path):
    services.down()
    place = home / "services" / "mlflow"
    (place / "mlflow.version").write_text("9.1.0")
    before = (place / "mlflow.db").read_bytes()
    with pytest.raises(ServiceError, match=r"written by mlflow 9\.1\.0.*install mlflow==9\.1\.0"):
        services.up()
    assert (place / "mlflow.db").read_bytes() == before
