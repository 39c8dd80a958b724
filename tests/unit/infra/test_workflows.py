"""The workflow of a release: zizmor finds no way in, and it builds what the project has."""

import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

from dataops.home import CHECKOUT

WORKFLOWS = CHECKOUT / ".github" / "workflows"


def test_zizmor_finds_nothing():
    command = [Path(sys.executable).with_name("zizmor"), "--offline", "--pedantic", "--no-progress", WORKFLOWS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_release_tests_before_it_builds_and_builds_before_it_publishes():
    jobs = yaml.safe_load((WORKFLOWS / "release.yml").read_text("utf-8"))["jobs"]
    assert {name: job.get("needs") for name, job in jobs.items()} == {
        "test": None, "build": "test", "publish": "build", "images": "publish"
    }  # fmt: skip
    targets = {line.split()[-1] for line in (CHECKOUT / "infra/Dockerfile").read_text().splitlines() if " AS " in line}
    assert {*jobs["images"]["strategy"]["matrix"]["target"]} <= targets


def test_changelog_has_the_version_of_the_project():
    version = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert f"\n## {version} (" in (CHECKOUT / "CHANGELOG.md").read_text("utf-8")
