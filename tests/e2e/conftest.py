"""Fixtures of the end-to-end tests: a small demo web, its site, and the two real servers. Each test has its own store."""

import fcntl
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from dataops.home import CHECKOUT
from dataops.store import FolderStore
from infra.local import services
from plugins.demo.build import DemoWeb, build_demo_web
from tests.kills.environment import ChaosEnvironment
from tests.kills.loop import Chaos
from tests.servers.recorder import Recorder, serve_recorder

PLANTED = {
    "AWS_SECRET_ACCESS_KEY": "planted/aws+secret=key",
    "AWS_SESSION_TOKEN": "planted-aws-session-token",
    "PREFECT_API_KEY": "planted-prefect-api-key",
    "MLFLOW_TRACKING_USERNAME": "mill",
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-password",
    "HF_TOKEN": "planted-hf-token",
    "OPENLINEAGE_API_KEY": "planted-openlineage-key",
    "DATABASE_URL": "postgresql+psycopg://mill:planted-database-password@127.0.0.1:9/mill",
}
"""Secrets in the environment of every command and server; test_secrets.py searches all written files for them."""
SAMPLE_CONFIG = """
name = "small"
[store]
uri = "{store}"
[source]
kind = "warc"
paths = ["{archive}/*.warc.gz"]
[filter]
languages = ["en"]
language_min_score = 0.5
language_page_weight = 0.8
[download]
image_size = 64
resize_mode = "border"
shard_size = 40
host_rate = 0
connect_to = {{ "{host}" = "{site}" }}
[curate]
min_side = 32
[pack]
shard_size = 100
[train]
model = "{root}/tests/e2e/tiny-model.json"
epochs = 6
batch_size = 64
lr = 1e-3
vocab_size = 600
checkpoint_every = 5
precision = "fp32"
[evaluate]
suite = "{root}/configs/suites/demo.toml"
data = "{suite}"
[register]
model_name = "{model_name}"
floors = {{ "twemoji-seen/top1" = 0.0 }}
[execution]
workers = {workers}
"""


@dataclass(frozen=True)
class Pairmill:
    """The `pairmill` command, run as a subprocess in its own working folder."""

    folder: Path
    web: DemoWeb
    site: str
    env: dict[str, str] = field(repr=False)
    catalogue: Recorder
    """Server that gets the OpenLineage events of all runs."""

    def write_config(
        self, name: str, *, store: Path | str | None = None, model_name: str = "small", workers: int = 1
    ) -> Path:
        """Write a config file with its own store. One worker: with so few pairs, a second one would only take longer."""
        path = self.folder / f"{name}.toml"
        path.write_text(
            SAMPLE_CONFIG.format(
                store=store or self.folder / f"store-{name}",
                archive=self.web.archive,
                suite=self.web.suite_root,
                host=self.web.host,
                site=self.site,
                root=CHECKOUT,
                model_name=model_name,
                workers=workers,
            )
        )
        return path

    def command_line(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "flows.cli", *map(str, arguments)]

    def __call__(self, *arguments: str | Path, code: int = 0, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        """Run the command and check its exit code."""
        done = subprocess.run(
            self.command_line(*arguments),
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        with (self.folder / "outputs.log").open("a") as log:  # test_secrets.py reads it
            log.write(done.stdout + done.stderr)
        assert done.returncode == code, (
            f"{arguments} gave {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        )
        return done

    def json(self, *arguments: str | Path, code: int = 0) -> Any:
        """Run the command with --json and return the JSON value, which must be all of standard output."""
        return json.loads(self(*arguments, "--json", code=code).stdout)

    def run_and_kill(
        self,
        *arguments: str | Path,
        when: Callable[[], bool],
        timeout: float = 180,
        number: signal.Signals = signal.SIGKILL,
    ) -> int:
        """Start the command, wait until `when` is true, stop it, and return its exit code.

        Args:
            number: the signal. SIGINT is sent to all processes of the command, as a terminal does.
        """
        with (self.folder / "killed.log").open("ab") as log:
            process = subprocess.Popen(
                self.command_line(*arguments),
                cwd=self.folder,
                env=self.env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                deadline = time.monotonic() + timeout
                while not when():
                    assert process.poll() is None, (self.folder / "killed.log").read_text()[-6000:]
                    assert time.monotonic() < deadline, "the condition to kill never became true"
                    time.sleep(0.01)
                if number == signal.SIGINT:
                    os.killpg(process.pid, number)
                    return process.wait(timeout)
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()
        return process.returncode


def build_web_once(tmp_path_factory: pytest.TempPathFactory, directory: Path) -> DemoWeb:
    """Build the demo web in the first of the processes that run tests; the others link to its files."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with (base / "web.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shorten_digits(build_demo_web(base / "web", limit=240))
    shutil.copytree(base / "web", directory, copy_function=os.link)
    return build_demo_web(directory, limit=240)


def shorten_digits(web: DemoWeb, samples: int = 100) -> None:
    """Keep the first samples of the test set `digits`: all 1,797 take as long as the rest of an evaluation."""
    tar = web.suite_root / "digits" / "test" / "0.tar"
    with tarfile.open(tar) as whole:
        kept = [(member, whole.extractfile(member).read()) for member in islice(whole, 2 * samples)]  # pyright: ignore[reportOptionalMemberAccess]
    with tarfile.open(tar.with_suffix(".short"), "w") as short:
        for member, content in kept:
            short.addfile(member, io.BytesIO(content))
    tar.with_suffix(".short").replace(tar)  # a new file, because other processes have linked to this one


@pytest.fixture(scope="session")
def pairmill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pairmill]:
    """Start the servers and serve the site; stop all at the end."""
    folder = tmp_path_factory.mktemp("mill")
    saved = dict(os.environ)
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    os.environ["PAIRMILL_HOME"] = str(folder / "home")
    os.environ |= PLANTED
    web = build_web_once(tmp_path_factory, folder / "web")
    server = [sys.executable, "-m", "plugins.demo.server", "--directory", str(web.site), "--port", "{port}"]
    try:
        services.up()
        site = services.ensure_service("demo-site", server, health_path="/healthz", env={}, port=None)
        address = site.url.removeprefix("http://").rstrip("/")
        with serve_recorder() as catalogue:
            env = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OPENLINEAGE_URL": catalogue.url}
            yield Pairmill(folder, web, address, env, catalogue)
    finally:
        services.down()
        os.environ.clear()
        os.environ.update(saved)


@pytest.fixture(scope="session")
def chaos(pairmill: Pairmill) -> Chaos:
    """Run a tiny pipeline once without kills, in the store `peace`."""
    environment = ChaosEnvironment(
        pairmill.folder / "chaos", pairmill.folder / "home", pairmill.env, pairmill.web, pairmill.site
    )
    chaos = Chaos(environment, seed=3)
    chaos.run_undisturbed(FolderStore(environment.folder / "peace"))
    return chaos


@pytest.fixture(scope="module")
def reusing_config(pairmill: Pairmill) -> Path:
    """Return a config whose run reuses what test_pipeline.py or test_deploy.py made in this process, if one of them ran."""
    stores = (pairmill.folder / f"store-{name}" for name in ("undisturbed", "nightly"))
    return pairmill.write_config("reusing", store=next((store for store in stores if store.exists()), None))


@pytest.fixture(scope="session")
def undisturbed(pairmill: Pairmill) -> dict[str, Any]:
    """Run once from an empty store to a registered version with two workers, and return the output of `show`."""
    result = pairmill.json("run", pairmill.write_config("undisturbed", workers=2))
    return pairmill.json("show", result["run_id"]) | {"result": result}
