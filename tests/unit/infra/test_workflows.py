"""The workflow of a release: zizmor finds no way in, and it builds what the project has."""

import subprocess
import sys
from pathlib import Path

import pytest

from dataops.home import CHECKOUT

WORKFLOWS = CHECKOUT / ".github" / "workflows"


ZIZMOR = Path(sys.executable).with_name("zizmor")


@pytest.mark.skipif(not ZIZMOR.exists(), reason="the extra `dev` has zizmor")
def test_zizmor_finds_nothing():
    command = [ZIZMOR, "--offline", "--pedantic", "--no-progress", WORKFLOWS]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
