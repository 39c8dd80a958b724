"""What the code may not call, read from its source: each exception stands in ALLOWED with its reason."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from dataops.home import CHECKOUT
from dataops.redaction import is_secret_name
from flows.config import RunConfig

PACKAGES = ("dataops", "training", "tasks", "infra", "flows")
MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "xmlrpc", "telnetlib", "ftplib"}
"""That read pickle or code, or speak without encryption."""
FETCHES = {"urllib.request", "requests", "httpx", "aiohttp", "urllib3", "http.client", "http.server", "socket"}
LOADS = {"torch.load", "joblib.load", "pickle.load", "pickle.loads", "yaml.load", "yaml.full_load", "yaml.unsafe_load"}
ALLOWED = {
    # Pickle: between our own processes only, never from a store. multiprocessing does it by itself.
    "training/model/torchscript.py pickle": "torch's archives: every name but a few becomes an inert record",
    "training/model/pretrained.py torch.load": "a file of weights that the user names, with weights_only=True",
    # Network: each place that opens or serves a connection.
    "tasks/web/bounded_socket.py socket": "connects to a checked IP address, with limits of time and bytes",
    "tasks/download/fetch/opener.py urllib.request": "the safe fetch replaces urllib's opener; it opens nothing through it",
    "tasks/download/worker.py urllib.request": "puts the safe fetch under img2dataset",
    "tasks/web/address_policy.py socket": "names address families",
    "tasks/web/dns_cache.py socket": "resolves hosts for the safe fetch",
    "tasks/extract/crawl/resolver.py socket": "names address families; Twisted resolves, and each answer is checked",
    "tasks/extract/crawl/archive.py http.client": "the names of status codes",
    "tasks/files/http_file.py socket": "resolves the server that the config names",
    "tasks/files/s3_file.py urllib3": "names what a broken connection to S3 raises",
    "tasks/tracking/client.py requests": "names the exceptions of MLflow's client",
    "plugins/demo/archive.py http.client": "asks the demo's site on 127.0.0.1",
    "plugins/demo/server.py http.server": "the demo's site, on 127.0.0.1",
    "infra/local/supervisor.py http.client": "asks our own servers on 127.0.0.1 whether they live",
    "infra/local/services.py urllib.request": "asks the servers that the environment names whether they live",
    "infra/healthcheck.py urllib.request": "a container's health check: asks the server beside it",
    "infra/doctor/servers.py urllib.request": "asks the servers that the environment names what they are",
    "infra/local/worker.py socket": "this machine's name",
    "dataops/process.py socket": "this machine's name",
    "training/distributed.py socket": "the store of ranks that meet at an address of loopback listens there alone",
    "training/distributed.py torch.load": "what ranks exchange, with weights_only=True in place of torch's own pickle",
    "tasks/register/promotion.py socket": "this machine's name",
    "tasks/train/ray_actor.py socket": "this machine's name, and a free port for torchrun's rendezvous",
    "flows/prefect_errors.py httpx": "names what Prefect's client raises",
    "tasks/tracking/rest.py urllib.request": "asks the MLflow server that the environment names",
    "tasks/engine/lease.py socket": "this machine's name",
    "tasks/engine/ray_driver.py socket": "this machine's name",
    "tasks/engine/ray_pool.py socket": "asks whether the head of the cluster that the config names listens",
    "flows/deployment/deploy.py httpx": "names an exception of Prefect's client",
    "infra/local/processes.py socket": "looks for free ports on 127.0.0.1",
    "dataops/spreadsheets.py CSV": "escapes what spreadsheet programs would take for formulas",
    "flows/records.py socket": "this machine's name",
    "flows/artefacts.py httpx": "names an exception of Prefect's client",
    "flows/prefect_ui.py httpx": "asks the Prefect server for the paths of its UIs",
    "plugins/browse/server.py socket": "the pages of `pairmill browse`, on 127.0.0.1",
    "flows/events.py httpx": "names exceptions of Prefect's client",
    "flows/train_on_pool.py httpx": "names an exception of Prefect's client",
    "flows/watch/samples.py httpx": "the same",
    "tasks/openlineage/sender.py requests": "names an exception of OpenLineage's transport",
}


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (CHECKOUT / package).rglob("*.py"))


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def findings(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(f"{node.module}.{name}" for name in names)]
            yield from sorted({m for m in MODULES | FETCHES for n in names if n == m or n.startswith(f"{m}.")})
        elif isinstance(node, ast.Call):
            yield from calls(node)
        elif isinstance(node, ast.Attribute) and dotted(node).endswith(
            (".write_csv", ".to_csv", "csv.writer", "csv.DictWriter")
        ):
            yield "CSV"
        elif isinstance(node, ast.Constant) and node.value in ("0.0.0.0", "::"):
            yield "all interfaces"


def calls(node: ast.Call) -> Iterator[str]:
    name, last = dotted(node.func), dotted(node.func).rpartition(".")[2]
    keywords = {word.arg: word.value for word in node.keywords}

    def on(word: str) -> bool:
        return word in keywords and not (isinstance(keywords[word], ast.Constant) and not keywords[word].value)  # pyright: ignore

    if name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen") or name in LOADS:
        yield name
    if last in ("extractall", "unpack_archive") or name in ("tar.extract", "archive.extract", "zip.extract"):
        yield last
    if on("shell") or on("allow_pickle") or on("trust_remote_code"):
        yield next(word for word in ("shell", "allow_pickle", "trust_remote_code") if on(word))
    if last in ("_create_unverified_context",) or (
        "verify" in keywords and not on("verify") and last in ("get", "post")
    ):
        yield "unverified TLS"


def test_sources_load_pickle_run_text_or_connect_only_where_allowed():
    found = {f"{path.relative_to(CHECKOUT).as_posix()} {what}" for path in sources() for what in findings(parse(path))}
    assert found - ALLOWED.keys() == set(), "safe ones go into ALLOWED, with the reason"
    assert ALLOWED.keys() - found == set(), "no longer true: take it out"


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("import pickle", "pickle"),
        ("from cloudpickle import loads", "cloudpickle"),
        ("import urllib.request as r", "urllib.request"),
        ("from urllib import request", "urllib.request"),
        ("from http import client", "http.client"),
        ("torch.load(f)", "torch.load"),
        ("torch.load(f, weights_only=True)", "torch.load"),
        ("numpy.load(f, allow_pickle=True)", "allow_pickle"),
        ("numpy.load(f, allow_pickle=flag)", "allow_pickle"),
        ("yaml.load(f)", "yaml.load"),
        ("eval(x)", "eval"),
        ("exec(x)", "exec"),
        ("subprocess.run(c, shell=True)", "shell"),
        ("tar.extractall(p)", "extractall"),
        ("shutil.unpack_archive(p)", "unpack_archive"),
        ("server.bind(('0.0.0.0', 1))", "all interfaces"),
        ("requests.get(u, verify=False)", "unverified TLS"),
        ("table.write_csv(p)", "CSV"),
        ("csv.writer(f)", "CSV"),
    ],
)
def test_source_check_reports_forbidden_calls(code, what):
    assert what in list(findings(ast.parse(code)))


@pytest.mark.parametrize(
    "code", ["numpy.load(f, allow_pickle=False)", "re.compile(x)", "model.eval()", "run(c, shell=False)"]
)
def test_source_check_accepts_harmless_calls(code):
    assert list(findings(ast.parse(code))) == []


# Configs --------------------------------------------------------------------------------------------------------------

READ = {"source.paths", "train.model", "evaluate.suite", "evaluate.data"}
"""Places that are only read: they may be anywhere."""
STORE = {"store.uri"}
"""The one place that is written to."""
PATH_WORDS = ("path", "file", "folder", "dir", "root", "uri", "cache", "output", "name", "dataset")


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        yield path, field
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, f"{path}.")


def test_config_fields_that_become_paths_are_read_only_or_plain_names():
    for path, field in fields(RunConfig):
        annotation, metadata = str(field.annotation), str(field.metadata)  # pyright: ignore
        if "str" not in annotation and "Path" not in annotation:
            continue
        named = any(
            word in path.rpartition(".")[2].split("_") for word in (*PATH_WORDS, *(f"{w}s" for w in PATH_WORDS))
        )
        if (named or "Path" in annotation) and path not in READ | STORE:
            assert "pattern='^[A-Za-z" in metadata, f"{path}: give it a pattern without / or list it in READ"
            assert "/" not in metadata, path


def test_config_has_no_field_for_a_secret():
    assert [path for path, _ in fields(RunConfig) if is_secret_name(path)] == []


def test_security_md_names_existing_tests():
    text = (CHECKOUT / "SECURITY.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(tests/[^`]+)`", text))
    assert len(named) > 8
    assert [name for name in sorted(named) if not (CHECKOUT / name).is_file()] == []
