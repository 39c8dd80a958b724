"""Run a real S3 server on loopback, for tests and for benchmarks/chaos.py."""

import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import boto3
from botocore.exceptions import BotoCoreError, ClientError

KEY_ID, SECRET = "pairmill-test", "only-for-tests-on-loopback"
ROLES = ("master", "volume", "filer", "s3", "admin")
START_SECONDS = 90
"""Maximum seconds until a server that was started accepts requests, on a busy machine."""


_chosen = set()
"""Ports that this process has chosen, which nothing may use yet."""


def free_port():
    """Return a free port that no outgoing connection gets while a stopped server does not use it."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)  # Linux gives connections the ports from 32,768 on
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _chosen:
            _chosen.add(port)
            return port


class SeaweedFS:
    """`weed mini` in a folder, on ports of its own that it keeps when it is started again."""

    def __init__(self, folder):
        self.folder = folder
        self.ports = {f"{role}.port{kind}": free_port() for role in ROLES for kind in ("", ".grpc")}
        self.endpoint = f"http://127.0.0.1:{self.ports['s3.port']}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self._process = None

    def start(self):
        """Start the server and wait until it accepts requests. Raises: RuntimeError if it ends or takes too long."""
        off = ("-master.telemetry=false", "-webdav=false", "-s3.autoCreateBucket=false")
        weed = Path(sys.executable).parent / "weed"
        command = [str(weed), "mini", f"-dir={self.folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *off]
        command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
        command += [f"-{role}={port}" for role, port in self.ports.items()]
        with (self.folder / "weed.log").open("ab") as log:
            environment = {**os.environ, **self.environment}
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=self.folder)
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"SeaweedFS does not start:\n{self._log()}")
            time.sleep(0.1)

    def stop(self, *, at_once=False):
        """Stop the server, with SIGTERM or with SIGKILL."""
        if self._process is None:
            return
        if at_once:
            self._process.kill()
        else:
            self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def create_bucket(self, name):
        """Create a bucket; waits for the volumes, which are ready a little after the first response."""
        keys = {"aws_access_key_id": KEY_ID, "aws_secret_access_key": SECRET}
        client = boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1", **keys)
        deadline = time.monotonic() + START_SECONDS
        try:
            while True:
                try:
                    client.create_bucket(Bucket=name)
                    client.put_object(Bucket=name, Key="ready", Body=b"ready")
                    client.delete_object(Bucket=name, Key="ready")
                    return
                except client.exceptions.BucketAlreadyOwnedByYou:
                    return
                except (BotoCoreError, ClientError) as error:
                    if time.monotonic() > deadline:
                        raise RuntimeError(f"SeaweedFS does not create a bucket:\n{self._log()}") from error
                    time.sleep(0.2)
        finally:
            client.close()

    def _is_ready(self):
        try:
            with urllib.request.urlopen(self.endpoint, timeout=2):
                return True
        except urllib.error.HTTPError as error:
            with error:
                return error.code in (400, 403)  # it responds, and demands credentials
        except OSError:
            return False

    def _log(self):
        return (self.folder / "weed.log").read_text(errors="replace")[-3000:]
