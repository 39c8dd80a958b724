"""Prepare the environment of benchmarks/chaos.py: servers, a small site, and the config of a tiny pipeline."""

import json
import os
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dataops.home import CHECKOUT
from dataops.store import FolderStore, Store, open_store
from tests.kills.seaweed import SeaweedFS
from tests.kills.store_faults import StoreFaults
from tests.small_pipeline import MODEL, local_servers, write_config
from tests.small_web import SmallWeb, build_small_web, serve_site

BUCKET = "chaos"
TRAIN = {"epochs": 4, "batch_size": 16, "vocab_size": 400, "checkpoint_every": 3}


@dataclass(frozen=True)
class ChaosEnvironment:
    """Folder, environment variables, servers and site of the runs."""

    folder: Path
    home: Path
    env: dict[str, str] = field(repr=False)
    web: SmallWeb
    site: str
    faults: StoreFaults | None = None
    """Faults of the S3 server in which the stores of disturbed runs are; None if they are folders."""

    def open_store(self, name):
        """Open the store of a disturbed run, past the proxy of the faults."""
        return FolderStore(self.folder / name) if self.faults is None else open_store(f"s3://{BUCKET}/{name}")

    def config(self, store):
        """Write a config for a store; the pipeline is so small that starting processes takes most of a run."""
        uri = store.uri if isinstance(store, Store) else str(store)
        return write_config(
            self.folder / f"{Path(uri).name}.toml",
            self.web,
            self.site,
            uri,
            name="chaos",
            source={"paths": [f"{self.web.archive}/*-00000.warc.gz"]},
            download={"shard_size": 16},
            pack={"shard_size": 16},
            train={"model": str(self._write_model())} | TRAIN,
            register={"model_name": "chaos", "floors": {}},
            execution={"retry_delays": [0.5, 1]},
        )

    def _write_model(self):
        """Write the model's config. For S3 its weights are large enough for a multipart upload: over 16 MiB."""
        model = json.loads(MODEL.read_text())
        if self.faults is not None:
            model["text_cfg"] |= {"width": 512, "heads": 8}
        path = self.folder / "model.json"
        path.write_text(json.dumps(model))
        return path

    @property
    def temporary(self):
        """TMPDIR of all disturbed runs."""
        return self.folder / "tmp"


@contextmanager
def chaos_environment(store="folder", seed=0, say=lambda line: None):
    """Start servers and a small site in a temporary folder; stop and delete all of them afterwards.

    Args:
        store: kind of the stores of disturbed runs: "folder", or "s3" for an S3 server with faults.
        seed: of the faults.
        say: called with one line per fault.
    """
    with tempfile.TemporaryDirectory(prefix="pairmill-chaos-") as name, ExitStack() as running:
        folder = Path(name)
        web = build_small_web(folder / "web")
        running.enter_context(local_servers(folder / "home"))
        site = running.enter_context(serve_site(web))
        env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        faults = None
        if store == "s3":
            server, faults = _start_s3(folder / "s3", seed, say, running)
            os.environ.update(server.environment)  # of this process, which checks the stores past the proxy
            env |= {**server.environment, "AWS_ENDPOINT_URL": faults.url}
        yield ChaosEnvironment(folder, folder / "home", env, web, site, faults)


def _start_s3(folder, seed, say, running):
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
