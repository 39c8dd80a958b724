"""Checks of the installation: package names are unique, and dependencies in the ranges of pyproject.toml.

Reads metadata and paths, and imports no dependency. `find_name_clashes` takes 1 ms, so that each command can call it.
"""

import json
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from dataops.errors import ConfigError
from dataops.home import CHECKOUT
from infra.doctor.check import Check

DISTRIBUTION = "pairmill"
PACKAGES = ("flows", "tasks", "training", "dataops", "infra")
"""Our top-level package names. They are short, as in any Prefect project, so other distributions may have them too."""


def refuse_on_clash() -> None:
    """Raise a ConfigError if Python may import other code under one of our package names, here or in a subprocess."""
    if clashes := find_name_clashes():
        owners = metadata.packages_distributions()
        lines = "\n".join(f"  {name} is also {path}{_owner(owners.get(name, ()))}" for name, path in clashes.items())
        raise ConfigError(
            f"other code is installed under pairmill's own package names:\n{lines}\n{_clash_remedy(owners)}"
        )


def find_name_clashes(path: Sequence[str] | None = None, root: Path = CHECKOUT) -> dict[str, str]:
    """Return those of our package names that are also elsewhere on the import path, with their paths.

    A regular package or module anywhere on the path counts, since a subprocess may search it first. A plain folder counts
    if Python would import it before an editable installation.

    Args:
        path: the folders to search; by default `sys.path`.
        root: the checkout that has all our packages.
    """
    entries = list(sys.path if path is None else path)
    elsewhere = [folder for folder in map(Path, entries) if folder.is_dir() and folder.resolve() != root]
    clashes = {}
    for name in PACKAGES:
        files = (file for folder in elsewhere for file in (folder / name / "__init__.py", folder / f"{name}.py"))
        if rival := next((file for file in files if file.is_file()), None):
            clashes[name] = str(rival)
            continue
        spec = PathFinder.find_spec(name, entries)
        origins = [spec.origin] if spec and spec.origin else list(spec.submodule_search_locations or ()) if spec else []
        if origins and not Path(origins[0]).resolve().is_relative_to(root):
            clashes[name] = str(origins[0])
    return clashes


def check_names(
    owners: Mapping[str, Sequence[str]] | None = None, clashes: Mapping[str, str] | None = None
) -> list[Check]:
    """Check which other distributions have our package names, or `tests`, which is harmless.

    Args:
        owners: distributions by top-level name; by default the installed ones.
        clashes: paths by name, from `find_name_clashes`.
    """
    owners = metadata.packages_distributions() if owners is None else owners
    clashes = find_name_clashes() if clashes is None else clashes
    checks = []
    for name in PACKAGES:
        others = sorted(set(owners.get(name, ())) - {DISTRIBUTION})
        if others or name in clashes:
            path = f", at {clashes[name]}" if name in clashes else ""
            detail = f"`{name}` is a package of pairmill and{_owner(others) or ' of other code'}{path}"
            checks.append(Check("package names", False, "error", detail, _clash_remedy({name: others})))
    if not checks:
        checks.append(Check("package names", True, "error", f"{', '.join(PACKAGES)} belong only to pairmill"))
    if others := sorted(set(owners.get("tests", ())) - {DISTRIBUTION}):
        detail = f"`tests` is also a package{_owner(others)}: harmless, since nothing imports our tests by that name"
        checks.append(Check("package name tests", True, "warning", detail))
    return checks


def check_checkout(distributions: Iterable[metadata.Distribution] | None = None, root: Path = CHECKOUT) -> Check:
    """Check that the installed `pairmill` command and its subprocesses run the code of this checkout."""
    found = metadata.distributions(name=DISTRIBUTION) if distributions is None else distributions
    sources = {_source(distribution) for distribution in found}
    remedy = f"cd {root} && {sys.executable} -m pip install -e ."
    if not sources:
        detail = "it runs from a folder that is not installed: subprocesses in other folders do not find its packages"
        return Check("checkout", False, "warning", detail, remedy)
    if wrong := sorted(str(source) for source in sources - {root}):
        return Check("checkout", False, "error", f"{root} runs, but {', '.join(wrong)} is installed", remedy)
    return Check("checkout", True, "error", str(root))


def read_requirements(root: Path = CHECKOUT) -> tuple[str, list[str]]:
    """Return the Python range and the dependencies, from pyproject.toml or else from the installed metadata."""
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
        return project["requires-python"], project["dependencies"]
    except FileNotFoundError:
        pass
    try:
        installed = metadata.metadata(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return ">=3.11", []
    lines = installed.get_all("Requires-Dist") or []
    return installed["Requires-Python"], [line for line in lines if "extra ==" not in line]


def check_python(supported: str, version: str | None = None) -> Check:
    """Check that this Python's version is in the supported range."""
    from packaging.specifiers import SpecifierSet

    version = version or ".".join(map(str, sys.version_info[:3]))
    fits = SpecifierSet(supported).contains(version, prereleases=True)
    remedy = "" if fits else f"create the virtual environment again with a Python {supported}"
    return Check("python", fits, "error", f"{version} at {sys.executable} (needed: {supported})", remedy)


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


def check_backport(version_of: Callable[[str], str] = metadata.version) -> Check:
    """Report whether img2dataset, which requires it, has installed the `dataclasses` backport of Python 3.6.

    It is normal: pairmill starts no program with site-packages first on its path, as Prefect's ephemeral server does.
    """
    try:
        version = version_of("dataclasses")
    except metadata.PackageNotFoundError:
        return Check("dataclasses backport", True, "warning", "not installed")
    detail = f"dataclasses {version} came with img2dataset; the servers of `pairmill up` are not affected by it"
    return Check("dataclasses backport", True, "warning", detail)


def _source(distribution: metadata.Distribution) -> Path:
    """Return the folder with a distribution's code: the checkout if it is editable, else the folder it is installed in."""
    origin: dict[str, Any] = json.loads(distribution.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        from urllib.parse import unquote, urlsplit

        return Path(unquote(urlsplit(origin["url"]).path)).resolve()
    return Path(str(distribution.locate_file(""))).resolve()


def _owner(distributions: Iterable[str]) -> str:
    others = sorted(set(distributions) - {DISTRIBUTION})
    return f" of the installed distribution {', '.join(others)}" if others else ""


def _clash_remedy(owners: Mapping[str, Sequence[str]]) -> str:
    others = sorted({owner for name in PACKAGES for owner in owners.get(name, ())} - {DISTRIBUTION})
    removal = f"{sys.executable} -m pip uninstall {' '.join(others)}; or " if others else ""
    return f"{removal}install pairmill in a separate virtual environment, and remove that folder from PYTHONPATH"
