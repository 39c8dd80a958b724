"""An environment with only the requirements of a registered model, as links to the packages installed here."""

import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def find_distributions(requirements):
    """Return the distributions that the lines of a requirements file name, and all their dependencies, by name."""
    found = {}
    todo = [Requirement(line) for line in requirements]
    visited = set()
    while todo:
        requirement = todo.pop()
        for extra in ("", *requirement.extras):
            name = canonicalize_name(requirement.name)
            if (name, extra) in visited:
                continue
            visited.add((name, extra))
            found[name] = one = distribution(name)
            dependencies = map(Requirement, one.requires or [])
            todo += [line for line in dependencies if line.marker is None or line.marker.evaluate({"extra": extra})]
    return found


class BareEnvironment:
    """A folder of links, and a Python that imports only from the standard library and that folder."""

    def __init__(self, folder, requirements):
        self.packages, self.programs = folder / "packages", folder / "bin"
        self.programs.mkdir(parents=True)
        self.distributions = find_distributions(requirements)
        for one in self.distributions.values():
            for top in _tops(one):
                link = self.packages / top
                if not link.is_symlink():  # distributions may share a package, as the three of MLflow do
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(_root(one) / top)
            for entry in one.entry_points.select(group="console_scripts"):
                self._write(entry.name, f"from {entry.module} import {entry.attr} as main; sys.exit(main())")

    def _write(self, name, code):
        """Write a program as pip writes it, for this Python."""
        program = self.programs / name
        start = f'import sys; sys.path.append("{self.packages}"); sys.argv[0] = "{name}"'
        program.write_text(f"#!/bin/sh\nexec {sys.executable} -I -S -c '{start}; {code}' \"$@\"\n")
        program.chmod(0o755)

    def variables(self, **more):
        """Return the environment variables of the caller, without those that add other packages or programs."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        return {**kept, "PATH": f"{self.programs}:/usr/bin:/bin", **more}

    def python(self, code, *arguments, cwd, **more):
        """Run some code and return its output."""
        start = f'import sys; sys.path.append("{self.packages}")\n'
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", start + code, *arguments],
            cwd=cwd, env=self.variables(**more), capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout


def _tops(one):
    """Return the outermost packages (folders with an `__init__.py`) and the single files of a distribution, below its root.

    A folder without an `__init__.py` is not linked: distributions share it, so that it may hold other packages.
    """
    root = _root(one)
    files = [Path(file) for file in one.files or [] if ".." not in file.parts and file.parts[0] != "__pycache__"]
    packages = {}
    for folder in {file.parent for file in files}:
        above = [path for path in (*reversed(folder.parents), folder) if path.name]
        packages[folder] = next((path for path in above if (root / path / "__init__.py").exists()), None)
    return {packages[file.parent] or file for file in files}


def _root(one):
    return Path(str(one.locate_file("")))
