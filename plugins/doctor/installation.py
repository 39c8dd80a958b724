"""Checks of the installation: the code that runs is what is installed, with dependencies in the ranges of pyproject.toml.

Reads metadata and paths, and imports no dependency.
"""

import json
import sys
import tomllib
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from dataops.home import CHECKOUT
from plugins.doctor.check import Check

DISTRIBUTION = "pairmill"


def check_checkout(distributions: Iterable[metadata.Distribution] | None = None, root: Path = CHECKOUT) -> Check:
    """Check that the installed `pairmill` command and its subprocesses run the code of this checkout."""
    found = metadata.distributions(name=DISTRIBUTION) if distributions is None else distributions
    sources = {_source(distribution) for distribution in found}
    is_checkout = (root / "pyproject.toml").is_file()
    remedy = f"{sys.executable} -m pip install " + (f"-e {root}" if is_checkout else DISTRIBUTION)
    if not sources:
        detail = "it runs from a folder that is not installed: subprocesses in other folders do not find its packages"
        return Check("checkout", False, "warning", detail, remedy)
    if wrong := sorted(str(source) for source in sources - {root}):
        return Check("checkout", False, "error", f"{root} runs, but {', '.join(wrong)} is installed", remedy)
    return Check("checkout", True, "error", str(root))


def read_requirements(root: Path = CHECKOUT) -> list[str]:
    """Return the dependencies, from pyproject.toml or else from the installed metadata."""
    try:
        return tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    except FileNotFoundError:
        pass
    try:
        return [line for line in metadata.requires(DISTRIBUTION) or [] if "extra ==" not in line]
    except metadata.PackageNotFoundError:
        return []


def check_packages(requirements: Sequence[str], version_of: Callable[[str], str] = metadata.version) -> list[Check]:
    """Return a failed check for each dependency that is missing or out of range, or one successful check.

    Args:
        requirements: PEP 508 requirements.
        version_of: returns the installed version of a distribution, or raises PackageNotFoundError.
    """
    from packaging.requirements import Requirement

    needed = [
        requirement
        for requirement in map(Requirement, requirements)
        if not requirement.marker or requirement.marker.evaluate()
    ]
    checks = []
    for requirement in needed:
        bare = f"{requirement.name}{requirement.specifier}"
        remedy = f"{sys.executable} -m pip install '{bare}'"
        try:
            version = version_of(requirement.name)
        except metadata.PackageNotFoundError:
            checks.append(Check(requirement.name, False, "error", f"not installed (needed: {bare})", remedy))
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            detail = f"{version} is installed, but {bare} is needed"
            checks.append(Check(requirement.name, False, "error", detail, remedy))
    return checks or [Check("packages", True, "error", f"{len(needed)} dependencies are installed and in range")]


def _source(distribution: metadata.Distribution) -> Path:
    """Return the folder with a distribution's code: the checkout if it is editable, else the wheel's."""
    origin: dict[str, Any] = json.loads(distribution.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        from urllib.parse import unquote, urlsplit

        return Path(unquote(urlsplit(origin["url"]).path)).resolve()
    return Path(str(distribution.locate_file("pairmill/app"))).resolve()
