"""Code that a test runs in a Python of its own."""

import os
import subprocess
import sys
import textwrap

from dataops.home import CHECKOUT


def run_python(code, *arguments, exit_code=0, **environment):
    """Run code that can import the checkout, with variables added, and return its output and errors as text."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    env = os.environ | {"PYTHONPATH": str(CHECKOUT)} | environment
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == exit_code, done.stderr[-3000:]
    return done
