"""The systemd unit, as systemd reads it."""

import os
import shutil
import subprocess

import pytest

from dataops.errors import ConfigError
from plugins.deployment.systemd import render_unit


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd")
def test_systemd_accepts_the_unit(tmp_path):
    unit = tmp_path / "pairmill.service"
    unit.write_text(render_unit(["--gpus", "2"]))
    runtime = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}
    command = ["systemd-analyze", "verify", "--user", str(unit)]
    done = subprocess.run(command, env=runtime, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_path_that_a_unit_cannot_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path / "100% $x"))
    with pytest.raises(ConfigError, match="100% "):
        render_unit()
