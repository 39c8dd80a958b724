"""A real MLflow server (SQLite) on loopback."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

from dataops.home import CHECKOUT
from tests.kills.seaweed import free_port
from tests.servers.databases import put_database

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_MODEL_CATALOG_URI": "",
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    # A test receives webhooks on loopback, by HTTP, and at once (tests/integration/register/test_webhooks.py).
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http",
    "MLFLOW_WEBHOOK_CACHE_TTL": "0",
}


@contextmanager
def serve_mlflow(folder):
    """Run a server inside the `with`, with its database, artefacts and log in the folder; yields its URL."""
    port = free_port()
    put_database("mlflow", folder)
    module = "infra.local.mlflow_server"  # MLflow's own command takes another 3 s of CPU time
    command = [sys.executable, "-m", module, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [f"--backend-store-uri=sqlite:///{folder}/mlflow.db", f"--artifacts-destination={folder / 'files'}"]
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(CHECKOUT)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 300
    try:
        while True:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()[-2000:]
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.2)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
