"""README.md and the notebook: each command and each block of code runs as printed, where a pipeline has run."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dataops.home import CHECKOUT
from docs.tools.examples import find_examples
from docs.tools.notebook import NOTEBOOK, texts
from tests.small_pipeline import MODEL as SMALL
from tests.small_web import HOST

pytest.importorskip("plugins.export", reason="README and notebook use commands of plugins")
pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("pipeline")]

README = (CHECKOUT / "README.md").read_text("utf-8")
NOT_RUN = {"make demo": "`pairmill demo` takes minutes; the fixture runs the same stages on less data"}
MODEL, TINY = 'model = "ViT-B-32"', f'model = "{SMALL}"'
"""The model of the README, and one that trains in seconds."""


@pytest.fixture(scope="module", autouse=True)
def registered(pairmill, reusing_config):
    """Register the model of the demo."""
    pairmill("run", reusing_config, "--set", "register.model_name=pairmill-demo")


@pytest.fixture
def checkout(pairmill, tmp_path):
    """Return a folder like a checkout after `make demo`, with the files that the README's reader has."""
    for name in ("configs", "docs"):
        (tmp_path / name).symlink_to(CHECKOUT / name)
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "activate").write_text(f'PATH="{binaries}:{Path(sys.executable).parent}:$PATH"\n')
    command = binaries / "pairmill"
    client = [sys.executable, "-m", "tests.servers.warm_commands", str(pairmill.warm.place)]
    command.write_text(f'#!/bin/sh\nexec {shlex.join(client)} "$@"\n')
    command.chmod(0o755)
    (tmp_path / "crawl").symlink_to(pairmill.web.archive)
    shutil.copytree(pairmill.web.suite_root / "shapes-seen", tmp_path / "my-set")
    (tmp_path / "my-suite.toml").write_text(
        'name = "my-suite"\n[[task]]\nname = "my-set"\nkind = "classification"\nroot = "my-set"\nsplit = "test"\n'
    )
    (config,) = (example.content for example in find_examples(README) if example.language == "toml")
    assert MODEL in config
    config = config.replace(MODEL, f"{TINY}\nepochs = 2\nbatch_size = 32\nvocab_size = 600")
    reached = f'connect_to = {{ "{HOST}" = "{pairmill.site}" }}\nhost_rate = 0\nimage_size = 64\n'
    (tmp_path / "mine.toml").write_text(config.replace("[download]\n", f"[download]\n{reached}"))
    return tmp_path


def test_commands_and_code_run_as_printed(pairmill, checkout):
    env = pairmill.env | {"BROWSER": "true"}
    blocks = [example.content for example in find_examples(README) if example.language == "bash"]
    shell = [line for line in "".join(blocks).splitlines() if line.partition("#")[0].strip() not in NOT_RUN]
    assert len(shell) > 5
    run = subprocess.run(["bash", "-ec", "\n".join(shell)], cwd=checkout, env=env, capture_output=True, text=True)
    assert run.returncode == 0, f"{run.stdout[-3000:]}\n{run.stderr[-3000:]}"
    (code,) = (example.content for example in find_examples(README) if example.language == "python")
    run = subprocess.run([sys.executable, "-c", code], cwd=checkout, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    assert any((checkout / "exported").iterdir())


def test_notebook_gives_what_it_shows(pairmill, reusing_config, checkout):
    (checkout / ".pairmill").mkdir()
    shutil.copy(reusing_config, checkout / ".pairmill" / "demo.toml")
    notebook = Path(shutil.copy(CHECKOUT / NOTEBOOK, checkout / "notebook.ipynb"))
    command = [sys.executable, "-m", "docs.tools.notebook", notebook]
    run = subprocess.run(command, cwd=checkout, env=pairmill.env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    shown, found = (texts(json.loads(path.read_text("utf-8"))) for path in (CHECKOUT / NOTEBOOK, notebook))
    assert all(text for text, _ in found)
    assert [text for text, tags in found if "same" in tags] == [text for text, tags in shown if "same" in tags]
