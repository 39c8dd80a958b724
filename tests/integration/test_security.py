"""With real libraries and servers: pickle in a registry's artefact, wrong credentials of S3, servers with a login."""

import subprocess
import sys
import time
from contextlib import closing

import boto3

from dataops.home import CHECKOUT
from dataops.storage.s3 import S3Store

PLANT = """
import sys
from pathlib import Path
import mlflow.pyfunc

class Planted(mlflow.pyfunc.PythonModel):
    def __reduce__(self):
        return Path.touch, (Path(sys.argv[2]),)
    def predict(self, context, model_input, params=None):
        return model_input

mlflow.pyfunc.save_model(sys.argv[1], python_model=Planted(), pip_requirements=[])
try:
    mlflow.pyfunc.load_model(sys.argv[1])
except Exception as error:
    print(error)
"""
LOAD = """
import sys
from infra.local import services
services.apply_environment()
import mlflow.pyfunc
mlflow.pyfunc.load_model(sys.argv[1])
"""


def python(code, *arguments, **environment):
    root = str(CHECKOUT)
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": root, "MLFLOW_DISABLE_TELEMETRY": "true", "HOME": arguments[0]}
    env |= environment
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True, check=False
    )


def test_pickled_model_in_the_registry_is_rejected_by_name_and_not_run(tmp_path):
    model, mark = str(tmp_path / "model"), tmp_path / "ran"
    planted = python(PLANT, model, str(mark), MLFLOW_ALLOW_PICKLE_DESERIALIZATION="true")
    assert mark.exists(), f"the bomb is a dud: {planted.stdout} {planted.stderr}"
    mark.unlink()
    refused = python(LOAD, model, PAIRMILL_HOME=str(tmp_path / "home"))
    assert refused.returncode == 1
    assert "MLFLOW_ALLOW_PICKLE_DESERIALIZATION" in refused.stderr
    assert not mark.exists()


def test_cached_copies_are_readable_only_by_the_user(s3_environment, tmp_path):
    with closing(boto3.client("s3")) as client:
        for _ in range(50):  # the server answers a little before its volumes are ready
            try:
                client.create_bucket(Bucket="private")
                break
            except client.exceptions.ClientError:
                time.sleep(0.2)
    store = S3Store("private", "x")
    store.check_writable()
    store.put("a/b", b"x")
    assert store.local("a/b").read_bytes() == b"x"
    assert (tmp_path / "home" / "cache").stat().st_mode & 0o077 == 0
