"""Distributions of strangers: only their metadata and modules are there, as after an install."""

import subprocess
import sys
import textwrap
from pathlib import Path


class Stranger:
    """Installs distributions of one module each, and runs code that sees them."""

    def __init__(self, folder):
        self.folder = folder

    def install(self, name, module, points):
        metadata = self.folder / f"{name}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(textwrap.dedent(points))
        (self.folder / f"{name}.py").write_text(textwrap.dedent(module))

    def run(self, code):
        command = [sys.executable, "-c", textwrap.dedent(code)]
        return subprocess.run(
            command, env={"PYTHONPATH": f"{self.folder}:{Path.cwd()}"}, capture_output=True, text=True
        )
