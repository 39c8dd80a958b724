"""What the code may not call, and what configs may not hold."""

import re
import subprocess
import sys

import pytest
from pydantic import BaseModel

from dataops.home import CHECKOUT
from dataops.redaction import is_secret_name
from flows.config import RunConfig

# Calls ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        *("import pickle", "from cloudpickle import loads", "torch.load(f)", "yaml.load(f)", "eval(x)", "exec(x)"),
        *("import urllib.request as r\nr.urlopen(u)", "from http import client\nclient.HTTPConnection(h)"),
        *("from socket import create_connection", "import httpx\nhttpx.get(u)", "import csv\ncsv.writer(f)"),
        *("import subprocess\nsubprocess.run(c, shell=True)", "import tarfile\ntarfile.open(f).extractall(p)"),
        *("import shutil\nshutil.unpack_archive(p)", "server.bind(('0.0.0.0', 1))"),
        "import requests\nrequests.get(u, verify=False)",
    ],
)
def test_lint_reports_calls_that_hostile_data_could_use(code):
    """`make lint` accepts one with `# noqa: RULE  the reason` on its line."""
    imports = "import torch\nimport yaml\n" if code.startswith(("torch", "yaml")) else ""
    command = [sys.executable, "-m", "ruff", "check", "--stdin-filename", str(CHECKOUT / "flows" / "x.py"), "-"]
    done = subprocess.run(
        [*command, "--select", "TID251,S"], input=f"{imports}{code}\n", capture_output=True, text=True, cwd=CHECKOUT
    )
    assert done.returncode == 1, done.stderr


def test_no_module_reads_pickled_arrays_or_writes_formulas_into_spreadsheets():
    forbidden = re.compile(r"allow_pickle=(?!False)|trust_remote_code=(?!False)|\.(write|to)_csv\(|_unverified_context")
    packages = ("dataops", "training", "tasks", "infra", "flows", "plugins")
    sources = (path.relative_to(CHECKOUT) for package in packages for path in (CHECKOUT / package).rglob("*.py"))
    found = [
        path for path in sources if "tests" not in path.parts and forbidden.search((CHECKOUT / path).read_text("utf-8"))
    ]
    assert {path.as_posix() for path in found} <= {"plugins/versions/spreadsheets.py"}, "which escapes formulas"


# Configs --------------------------------------------------------------------------------------------------------------

READ = {"source.paths", "train.model", "evaluate.suite", "evaluate.data"}
"""Places that are only read: they may be anywhere."""
STORE = {"store.uri"}
"""The one place that is written to."""
PATH_WORDS = ("path", "file", "folder", "dir", "root", "uri", "cache", "output", "name", "dataset")


def fields(model, prefix=""):
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        yield path, field
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, f"{path}.")


def test_config_fields_that_become_paths_are_read_only_or_plain_names():
    for path, field in fields(RunConfig):
        annotation, metadata = str(field.annotation), str(field.metadata)
        if "str" not in annotation and "Path" not in annotation:
            continue
        named = any(
            word in path.rpartition(".")[2].split("_") for word in (*PATH_WORDS, *(f"{w}s" for w in PATH_WORDS))
        )
        if (named or "Path" in annotation) and path not in READ | STORE:
            assert re.search(r"pattern='\^\(?\[A-Za-z", metadata), (
                f"{path}: give it a pattern without / or list it in READ"
            )
            assert "/" not in metadata, path


def test_config_has_no_field_for_a_secret():
    assert [path for path, _ in fields(RunConfig) if is_secret_name(path)] == []


def test_security_md_names_existing_tests():
    text = (CHECKOUT / "SECURITY.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(tests/[^`]+)`", text))
    assert len(named) > 8
    assert [name for name in sorted(named) if not (CHECKOUT / name).is_file()] == []
