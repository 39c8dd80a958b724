"""Fixtures of several test folders; conftest.py of the checkout registers this module as a plugin of pytest.

Each imports what it needs itself, because all test processes load this module.
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

BUILD_MODEL = """
import sys
from pathlib import Path
from training.model.checkpoint import save_model
from training.model_config import ModelConfig
from training.model.clip import CLIP
from training.model.preprocess import Preprocess
from training.model.tokenizer import train_tokenizer
tokenizer = train_tokenizer(["a red kite", "two cats"], 280, 8)
vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "patch_size": None}
text = {"context_length": 8, "vocab_size": tokenizer.vocab_size, "width": 16, "heads": 2, "layers": 1}
config = ModelConfig.model_validate({"embed_dim": 8, "vision_cfg": vision, "text_cfg": text})
save_model(Path(sys.argv[1]), CLIP(config), tokenizer, Preprocess(32))
"""


# The command and its servers ------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def pairmill(tmp_path_factory):
    """Start the servers and serve the site; stop all at the end."""
    from dataops.home import CHECKOUT
    from tests.servers.warm_commands import warm_commands
    from tests.small_pipeline import PLANTED, Pairmill, local_servers
    from tests.small_web import build_small_web, serve_site

    folder = tmp_path_factory.mktemp("mill")
    web = build_small_web(folder / "web")
    with local_servers(folder / "home", **PLANTED), serve_site(web) as site:
        env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        with warm_commands(env) as warm:
            yield Pairmill(folder, web, site, env, warm)


@pytest.fixture(scope="session")
def chaos(pairmill):
    """Run a tiny pipeline once without kills, in the store `peace`."""
    from dataops.store import FolderStore
    from tests.kills.environment import ChaosEnvironment
    from tests.kills.loop import Chaos

    environment = ChaosEnvironment(
        pairmill.folder / "chaos", pairmill.folder / "home", pairmill.env, pairmill.web, pairmill.site
    )
    chaos = Chaos(environment, seed=3)
    chaos.run_undisturbed(FolderStore(environment.folder / "peace"))
    return chaos


@pytest.fixture(scope="module")
def reusing_config(pairmill):
    """Return a config whose run reuses what test_pipeline.py or test_deploy.py made in this process, if one of them ran."""
    stores = (pairmill.folder / f"store-{name}" for name in ("undisturbed", "nightly"))
    return pairmill.write_config("reusing", store=next((store for store in stores if store.exists()), None))


@pytest.fixture(scope="session")
def undisturbed(pairmill):
    """Run once from an empty store to a registered version, and return the output of `show`."""
    result = pairmill.json("run", pairmill.write_config("undisturbed"))
    return pairmill.json("show", result["run_id"]) | {"result": result}


# Servers of S3, the Hub and MLflow ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """Run a SeaweedFS server whose credentials are KEY_ID and SECRET, with the bucket `mill`."""
    from tests.kills.seaweed import SeaweedFS

    server = SeaweedFS(tmp_path_factory.mktemp("weed"))
    try:
        server.start()
        server.create_bucket("mill")
        yield server
    finally:
        server.stop(at_once=True)


@pytest.fixture(scope="session")
def s3_endpoint(s3_server):
    """Return the URL of the S3 server."""
    return s3_server.endpoint


@pytest.fixture
def s3_environment(s3_server, monkeypatch, tmp_path):
    """Set the variables of the S3 server, and a home for the cache; no client of another test is used."""
    from tasks.files.s3_file import s3_client

    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path / "home"))
    s3_client.cache_clear()
    yield
    s3_client.cache_clear()


@pytest.fixture
def hub(monkeypatch):
    """Run a server that speaks the Hub's protocol and takes uploads; HF_ENDPOINT and HF_TOKEN are its own."""
    from tests.servers.writable_hub import TOKEN, WritableHub

    with WritableHub({}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        yield server


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory):
    """Start an MLflow server; return its URL."""
    from tests.servers.mlflow_server import serve_mlflow

    with serve_mlflow(tmp_path_factory.mktemp("mlflow")) as url:
        yield url


@pytest.fixture
def mlflow_url(mlflow_server, monkeypatch):
    """Set the environment variables of MLflow; returns the URL of the server."""
    from tests.servers.mlflow_server import ENVIRONMENT

    for name, value in (ENVIRONMENT | {"MLFLOW_TRACKING_URI": mlflow_server}).items():
        monkeypatch.setenv(name, value)
    return mlflow_server


@pytest.fixture
def one_thread():
    """Return a pool of one thread, because a worker process that loads img2dataset takes seconds to start."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture
def read_json(capsys):
    """Return a function that reads the JSON that was printed since its last call."""
    return lambda: json.loads(capsys.readouterr().out)


# Models ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def finished_model(tmp_path_factory):
    """Return the folder of a finished model with a ResNet, built in a subprocess: test processes never import torch."""
    from tests.python_code import run_python

    folder = tmp_path_factory.mktemp("finished")
    run_python(BUILD_MODEL, folder)
    return folder


@pytest.fixture(scope="session")
def upstream(tmp_path_factory):
    """Return the snapshots before register; they are shared, so tests only add to their store."""
    from tests.registrations import build_snapshots

    return build_snapshots(tmp_path_factory.mktemp("upstream"))


@pytest.fixture
def registered(mlflow_url, upstream):
    """Return a registered `clip-demo`: its manifest, plan and context."""
    from tasks.engine import stage
    from tests.registrations import plan_registration

    plan, context = plan_registration(upstream, model_name="clip-demo", floors={"twemoji-seen/top1": 0.02})
    manifest = stage.reuse(plan, context) or stage.make(plan, context)
    return manifest, plan, context
