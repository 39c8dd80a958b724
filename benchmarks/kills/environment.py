"""Prepare the environment of benchmarks/chaos.py: servers, a small site, and the config of a tiny pipeline."""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dataops.home import CHECKOUT
from infra.local import services
from tasks.demo.build import DemoWeb, build_demo_web

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

    def config(self, store: Path) -> Path:
        """Write a config for a store; the pipeline is so small that starting processes takes most of a run."""
        path, suite = self.folder / f"{store.name}.toml", self.folder / "suite.toml"
        suite.write_text(SUITE)
        paths = {"store": store, "suite": suite, "data": self.web.suite_root}
        paths |= {"archive": self.web.archive / "*-00000.warc.gz", "model": CHECKOUT / "tests/e2e/tiny-model.json"}
        quoted = {name: json.dumps(str(value)) for name, value in paths.items()}
        path.write_text(CONFIG.format(host=self.web.host, site=self.site, **quoted))
        return path

    @property
    def temporary(self) -> Path:
        """TMPDIR of all disturbed runs."""
        return self.folder / "tmp"


@contextmanager
def chaos_environment() -> Iterator[ChaosEnvironment]:
    """Start servers and a small site in a temporary folder; stop and delete all of them afterwards."""
    saved = dict(os.environ)
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory(prefix="pairmill-chaos-") as name:
        folder = Path(name)
        os.environ["PAIRMILL_HOME"] = str(folder / "home")
        try:
            web = build_demo_web(folder / "web", limit=200)
            services.up()
            server = [sys.executable, "-m", "tasks.demo.server", "--directory", str(web.site), "--port", "{port}"]
            site = services.ensure_service("demo-site", server, health_path="/healthz", env={}, port=None)

            address = site.url.removeprefix("http://").rstrip("/")
            yield ChaosEnvironment(folder, folder / "home", {**os.environ, "PYTHONPATH": str(CHECKOUT)}, web, address)
        finally:
            services.down()
            os.environ.clear()
            os.environ.update(saved)
