"""The fixture that starts the cluster once for all tests of this folder."""

import pytest

from plugins.deployment.tests.topology import Topology


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    pytest.importorskip("psycopg", reason="the extra `server` has the driver of Postgres")
    topology = Topology(tmp_path_factory.mktemp("cluster"))
    try:
        topology.start_postgres()
        topology.start_s3()
        topology.run("bucket")
        topology.start("mlflow", "--workers=1", wait=False)  # each of more imports MLflow again: 6 s of CPU time
        topology.run("prefect-database")
        topology.start("prefect")
        topology.await_health("mlflow")
        topology.start("worker")
        yield topology
    finally:
        topology.stop()
