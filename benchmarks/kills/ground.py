"""Where chaos happens: servers, a small web and its site in a temporary folder, and the config of a tiny pipeline."""

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
class Ground:
    """Where the command runs: a folder, an environment with servers, a web and the address that serves it."""

    folder: Path
    home: Path
    env: dict[str, str] = field(repr=False)
    web: DemoWeb
    site: str

    def config(self, store: Path) -> Path:
        """A config on a store of its own: small enough that most of a run is the starting of processes."""
        path, suite = self.folder / f"{store.name}.toml", self.folder / "suite.toml"
        suite.write_text(SUITE)
        places = {"store": store, "suite": suite, "data": self.web.suite_root}
        places |= {"archive": self.web.archive / "*-00000.warc.gz", "model": CHECKOUT / "tests/e2e/tiny-model.json"}
        quoted = {name: json.dumps(str(place)) for name, place in places.items()}
        path.write_text(CONFIG.format(host=self.web.host, site=self.site, **quoted))
        return path

    @property
    def temporary(self) -> Path:
        """The TMPDIR of all disturbed runs."""
        return self.folder / "tmp"


@contextmanager
def ground() -> Iterator[Ground]:
    """Servers, a small web and its site in a temporary folder; all ended and deleted afterwards."""
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
            yield Ground(folder, folder / "home", {**os.environ, "PYTHONPATH": str(CHECKOUT)}, web, address)
        finally:
            services.down()
            os.environ.clear()
            os.environ.update(saved)
