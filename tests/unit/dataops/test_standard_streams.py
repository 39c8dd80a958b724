"""Output and paths in environments that force an encoding."""

import io
import os
import subprocess
import sys

import pytest

from dataops.home import CHECKOUT
from dataops.process import escape_unencodable_output

TEXTS = "é 数据 😀 \udcff"


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", rb"\xe9 \u6570\u636e \U0001f600 \udcff"),
        ("latin-1", b"\xe9 \\u6570\\u636e \\U0001f600 \\udcff"),
        ("utf-8", "é 数据 😀 \\udcff".encode()),
    ],
)
def test_output_escapes_what_its_encoding_lacks(encoding, expected, monkeypatch):
    sink = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(sink, encoding))
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"y\xe9\n"), "ascii"))
    escape_unencodable_output()
    sys.stdout.write(TEXTS)
    sys.stdout.flush()
    with sys.stderr as discarded:
        discarded.write(TEXTS)
    assert sink.getvalue() == expected
    assert sys.stdin.readline() == "y\\xe9\n"


def test_a_worker_prints_any_text():
    code = f"import os\nfrom tasks.engine.context import start_worker\nstart_worker(os.getppid())\nprint({TEXTS!a})"
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, rb"\xe9 \u6570\u636e \U0001f600 \udcff")
