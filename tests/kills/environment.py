"""Prepare the environment of benchmarks/chaos.py: servers, a small site, and the config of a tiny pipeline."""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dataops.home import CHECKOUT
from dataops.store import FolderStore, Store, open_store
from infra.local import services
from plugins.demo.build import DemoWeb, build_demo_web
from tests.kills.seaweed import SeaweedFS
from tests.kills.store_faults import StoreFaults

CONFIG = """
name = "chaos"
[store]
uri = {store}
[source]
kind = "warc"
paths = [{archive}]
[filter]
languages = ["en"]
language_min_score = 0.5
language_page_weight = 0.8
[download]
image_size = 64
resize_mode = "border"
shard_size = 16
host_rate = 0
connect_to = {{ "{host}" = "{site}" }}
[curate]
min_side = 32
[pack]
shard_size = 16
[train]
model = {model}
epochs = 4
batch_size = 16
lr = 1e-3
vocab_size = 400
checkpoint_every = 3
precision = "fp32"
[evaluate]
suite = {suite}
data = {data}
[register]
model_name = "chaos"
[execution]
retry_delays = [0.5, 1]
"""
BUCKET = "chaos"
SUITE = """
name = "chaos"
[[task]]
name = "twemoji-heldout"
kind = "classification"
root = "twemoji-heldout"
split = "test"
[[task]]
name = "heldout-retrieval"
kind = "retrieval"
root = "heldout-retrieval"
split = "test"
"""


@dataclass(frozen=True)
class ChaosEnvironment:
    """Folder, environment variables, servers and site of the runs."""

    folder: Path
    home: Path
    env: dict[str, str] = field(repr=False)
    web: DemoWeb
    site: str
    faults: StoreFaults | None = None
    """Faults of the S3 server in which the stores of disturbed runs are; None if they are folders."""

    def open_store(self, name: str) -> Store:
        """Open the store of a disturbed run, past the proxy of the faults."""
        return FolderStore(self.folder / name) if self.faults is None else open_store(f"s3://{BUCKET}/{name}")

    def config(self, store: Store | Path) -> Path:
        """Write a config for a store; the pipeline is so small that starting processes takes most of a run."""
        uri = store.uri if isinstance(store, Store) else str(store)
        path, suite = self.folder / f"{Path(uri).name}.toml", self.folder / "suite.toml"
        suite.write_text(SUITE)
        paths = {"store": uri, "suite": suite, "data": self.web.suite_root, "model": self._write_model()}
        paths |= {"archive": self.web.archive / "*-00000.warc.gz"}
        quoted = {name: json.dumps(str(value)) for name, value in paths.items()}
        path.write_text(CONFIG.format(host=self.web.host, site=self.site, **quoted))
        return path

    def _write_model(self) -> Path:
        """Write the model's config. For S3 its weights are large enough for a multipart upload: over 16 MiB."""
        model = json.loads((CHECKOUT / "tests/e2e/tiny-model.json").read_text())
        if self.faults is not None:
            model["text_cfg"] |= {"width": 512, "heads": 8}
        path = self.folder / "model.json"
        path.write_text(json.dumps(model))
        return path

    @property
    def temporary(self) -> Path:
        """TMPDIR of all disturbed runs."""
        return self.folder / "tmp"


@contextmanager
def chaos_environment(
    store: str = "folder", seed: int = 0, say: Callable[[str], None] = lambda line: None
) -> Iterator[ChaosEnvironment]:
    """Start servers and a small site in a temporary folder; stop and delete all of them afterwards.

    Args:
        store: kind of the stores of disturbed runs: "folder", or "s3" for an S3 server with faults.
        seed: of the faults.
        say: called with one line per fault.
    """
    saved = dict(os.environ)
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory(prefix="pairmill-chaos-") as name, ExitStack() as running:
        folder = Path(name)
        os.environ["PAIRMILL_HOME"] = str(folder / "home")
        try:
            web = build_demo_web(folder / "web", limit=200)
            services.up(timeout_s=300)
            server = [sys.executable, "-m", "plugins.demo.server", "--directory", str(web.site), "--port", "{port}"]
            site = services.ensure_service("demo-site", server, health_path="/healthz", env={}, port=None)
            address = site.url.removeprefix("http://").rstrip("/")
            env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
            faults = None
            if store == "s3":
                server, faults = _start_s3(folder / "s3", seed, say, running)
                os.environ.update(server.environment)  # of this process, which checks the stores past the proxy
                env |= {**server.environment, "AWS_ENDPOINT_URL": faults.url}
            yield ChaosEnvironment(folder, folder / "home", env, web, address, faults)
        finally:
            services.down()
            os.environ.clear()
            os.environ.update(saved)


def _start_s3(folder: Path, seed: int, say: Callable[[str], None], running: ExitStack) -> tuple[SeaweedFS, StoreFaults]:
    """Start an S3 server with a bucket, and its proxy; they stop when `running` is closed."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    folder.mkdir()
    server = SeaweedFS(folder)
    running.callback(server.stop, at_once=True)
    server.start()
    server.create_bucket(BUCKET)
    faults = StoreFaults(server, seed, say)
    running.enter_context(faults.proxy())
    return server, faults
