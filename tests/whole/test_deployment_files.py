"""The deployment files are valid, agree with each other and with pyproject.toml, and have no secret."""

import json
import os
import re
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path

import yaml

from dataops.config import StageConfig
from dataops.home import CHECKOUT
from dataops.snapshot import Counts
from dataops.store import open_store
from flows.interruption import END_SECONDS
from infra.local.services import client_environment
from pairmill import launcher
from plugins.deployment import dotenv
from tasks.engine import stage
from tasks.engine.context import Context
from tasks.engine.process_guard import GRACE_SECONDS
from tasks.engine.stage import code_version

DOCKERFILE = (CHECKOUT / "infra/Dockerfile").read_text()
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
PACKAGES = {*PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]}
COMPOSE = yaml.safe_load((CHECKOUT / "infra/compose.yaml").read_text())


def test_checkpoints_get_the_time_that_compose_and_kubernetes_grant():
    templates = [json.loads(path.read_text()) for path in (CHECKOUT / "infra/kubernetes").glob("*-job-template.json")]
    assert len(templates) == 3
    granted = {template["variables"]["properties"]["grace_seconds"]["default"] for template in templates}
    granted.add(int(COMPOSE["services"]["worker-gpu"]["stop_grace_period"].removesuffix("s")))
    assert granted == {120}
    assert 90 <= GRACE_SECONDS < 120 - END_SECONDS


def test_dockerfile_passes_the_linter():
    linter = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([linter, CHECKOUT / "infra/Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_image_copies_existing_files_that_dockerignore_allows():
    allowed = {line[1:] for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [
        line.split()[1:-1] for line in DOCKERFILE.splitlines() if line.startswith("COPY") and "--from" not in line
    ]
    sources = {source for line in copied for source in line}
    assert sources == allowed
    assert [source for source in sources if not (CHECKOUT / source).exists()] == []
    assert sources >= PACKAGES


def test_compose_services_are_hardened_checked_and_published_on_loopback():
    for name, service in COMPOSE["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] in ("unless-stopped", "on-failure:5"), name
        assert ("healthcheck" in service) == (service["restart"] == "unless-stopped"), name
        assert ":latest" not in service["image"], name
        for port in service.get("ports", []):
            assert port.startswith("${PAIRMILL_BIND:-127.0.0.1}:"), name


def test_no_password_has_a_default():
    text = (CHECKOUT / "infra/compose.yaml").read_text()
    names = set(re.findall(r"\$\{([A-Z_]*(?:PASSWORD|SECRET|ACCESS_KEY)[A-Z_]*)", text))
    assert len(names) >= 7
    for name in names:
        assert re.search(rf"\$\{{{name}:\?", text), name
        assert not re.search(rf"\$\{{{name}:?-", text), name
        assert re.search(rf"^{name}=$", dotenv.EXAMPLE.read_text(), flags=re.MULTILINE), name
    used = set(re.findall(r"\$\{([A-Z_]+)", text))
    assert used == set(re.findall(r"^#?([A-Z_]+)=", dotenv.EXAMPLE.read_text(), flags=re.MULTILINE))


def test_dotenv_writes_random_private_secrets_once(tmp_path):
    path = tmp_path / ".env"
    assert dotenv.main(path) == 0
    values = dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line and line[0] != "#")
    assert len(set(values.values())) == len(values) >= 8
    assert all(re.fullmatch(r"[a-z][A-Za-z0-9_-]{31}", value) for value in values.values())
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_text()
    assert dotenv.main(path) == 2
    assert path.read_text() == before
    assert dotenv.fill_secrets("A_PASSWORD=\n") != dotenv.fill_secrets("A_PASSWORD=\n")


def test_git_ignores_the_secrets():
    done = subprocess.run(["git", "check-ignore", "-q", "infra/.env"], cwd=CHECKOUT, check=False)
    assert done.returncode == 0


def test_code_version_reads_the_build_commit_without_git(monkeypatch):
    monkeypatch.setenv("PAIRMILL_GIT_COMMIT", "0123abc")
    with_git = code_version()
    assert with_git["commit"] != "0123abc"
    monkeypatch.setenv("PATH", os.devnull)
    assert (code_version()["commit"], code_version()["dirty"]) == ("0123abc", None)


def test_only_changes_of_the_code_make_it_dirty(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "code_version", partial(code_version, tmp_path))
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    for command in (("init", "-q"), (*author, "commit", "-q", "--allow-empty", "-m", "First")):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    (tmp_path / "my-project").mkdir()
    (tmp_path / "my-project/mine.toml").write_text('name = "mine"\n')
    assert code_version(tmp_path)["dirty"] is False
    assert code_version(tmp_path / "my-project")["commit"] is None, "a wheel that lies in a repository of the user's"

    def edit(work):
        (tmp_path / "tasks").mkdir()
        (tmp_path / "tasks/new_module.py").write_text("")
        return stage.StageOutput([], Counts())

    context = Context(open_store(str(tmp_path / "store")), tmp_path)
    code = stage.make(stage.plan(stage.Stage("extract", 1, edit), StageConfig(), 0, []), context).code
    assert (code["dirty"], code["changed"]) == (True, True), "the checkout changed while the stage ran"
    assert code_version(tmp_path)["dirty"] is True


def test_prefect_shows_the_log_lines_of_all_packages_however_a_flow_was_deployed():
    of_file = yaml.safe_load((CHECKOUT / "infra/prefect.yaml").read_text())["definitions"]["env"]
    ours = client_environment()
    assert of_file == {name: ours[name] for name in of_file}
    assert set(of_file["PREFECT_LOGGING_EXTRA_LOGGERS"].split(",")) == set(launcher.PACKAGES)
