"""What is installed: our packages under names that nobody else takes, and dependencies in the ranges of pyproject.toml.

Looks at metadata and paths, imports no dependency; `name_clashes` is cheap enough for the start of every command.
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

"""The checkout that runs."""
DISTRIBUTION = "pairmill"
PACKAGES = ("flows", "tasks", "training", "dataops", "infra")
"""Our top-level names: short ones, as in any Prefect project, so another distribution may want them too."""


def refuse_on_clash() -> None:
    """Refuse to start when one of our package names means something else on this machine.

    Raises:
        ConfigError: it would import another's code, here or in a subprocess; says whose, and the remedy.
    """
    if clashes := name_clashes():
        owners = metadata.packages_distributions()
        lines = "\n".join(f"  {name} is also {path}{_owner(owners.get(name, ()))}" for name, path in clashes.items())
        raise ConfigError(
            f"other code is installed under pairmill's own package names:\n{lines}\n{_clash_remedy(owners)}"
        )


def name_clashes(path: Sequence[str] | None = None, root: Path = CHECKOUT) -> dict[str, str]:
    """Our package names that another place on the import path also holds, and where; about 1 ms.

    A regular package or module anywhere on the path counts (a subprocess may search it first), and so does a plain
    folder that the import system would take before an editable installation.

    Args:
        path: what is searched; by default `sys.path`.
        root: the checkout that should hold all five.
    """
    entries = list(sys.path if path is None else path)
    elsewhere = [folder for folder in map(Path, entries) if folder.is_dir() and folder.resolve() != root]
    found = {}
    for name in PACKAGES:
        files = (file for folder in elsewhere for file in (folder / name / "__init__.py", folder / f"{name}.py"))
        if rival := next((file for file in files if file.is_file()), None):
            found[name] = str(rival)
            continue
        spec = PathFinder.find_spec(name, entries)
        places = [spec.origin] if spec and spec.origin else list(spec.submodule_search_locations or ()) if spec else []
        if places and not Path(places[0]).resolve().is_relative_to(root):
            found[name] = str(places[0])
    return found


def check_names(
    owners: Mapping[str, Sequence[str]] | None = None, clashes: Mapping[str, str] | None = None
) -> list[Check]:
    """Who else owns our package names, and `tests`, which harms nobody.

    Args:
        owners: distributions by top-level name; by default those installed.
        clashes: as `name_clashes` gives them.
    """
    owners = metadata.packages_distributions() if owners is None else owners
    clashes = name_clashes() if clashes is None else clashes
    checks = []
    for name in PACKAGES:
        others = sorted(set(owners.get(name, ())) - {DISTRIBUTION})
        if others or name in clashes:
            place = f", at {clashes[name]}" if name in clashes else ""
            detail = f"`{name}` is a package of pairmill and{_owner(others) or ' of other code'}{place}"
            checks.append(Check("package names", False, "error", detail, _clash_remedy({name: others})))
    if not checks:
        checks.append(Check("package names", True, "error", f"{', '.join(PACKAGES)} are ours alone"))
    if others := sorted(set(owners.get("tests", ())) - {DISTRIBUTION}):
        detail = f"`tests` is also{_owner(others)}: harmless, our tests are not imported by that name"
        checks.append(Check("package name tests", True, "warning", detail))
    return checks


def check_checkout(distributions: Iterable[metadata.Distribution] | None = None, root: Path = CHECKOUT) -> Check:
    """Whether the installed `pairmill` command and its subprocesses run this checkout's code, not another's."""
    found = metadata.distributions(name=DISTRIBUTION) if distributions is None else distributions
    places = {_source(distribution) for distribution in found}
    remedy = f"cd {root} && {sys.executable} -m pip install -e ."
    if not places:
        detail = "pairmill runs from a folder that is not installed: subprocesses elsewhere will not find its packages"
        return Check("checkout", False, "warning", detail, remedy)
    if wrong := sorted(str(place) for place in places - {root}):
        return Check("checkout", False, "error", f"this is {root}, but {', '.join(wrong)} is installed", remedy)
    return Check("checkout", True, "error", str(root))


def requirements(root: Path = CHECKOUT) -> tuple[str, list[str]]:
    """The Python range and the dependencies of pyproject.toml; without that file, of the installed metadata."""
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
        return project["requires-python"], project["dependencies"]
    except FileNotFoundError:
        pass
    try:
        installed = metadata.metadata(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return ">=3.11", []
    wanted = installed.get_all("Requires-Dist") or []
    return installed["Requires-Python"], [line for line in wanted if "extra ==" not in line]


def check_python(wanted: str, version: str | None = None) -> Check:
    """Whether this Python is one that pairmill runs on."""
    from packaging.specifiers import SpecifierSet

    version = version or ".".join(map(str, sys.version_info[:3]))
    fits = SpecifierSet(wanted).contains(version, prereleases=True)
    remedy = "" if fits else f"make the virtual environment anew with a Python {wanted}"
    return Check("python", fits, "error", f"{version} at {sys.executable} (wanted {wanted})", remedy)


def check_packages(wanted: Sequence[str], version_of: Callable[[str], str] = metadata.version) -> list[Check]:
    """One check for each dependency that is missing or out of range, or one that says that none is.

    Args:
        wanted: PEP 508 requirements.
        version_of: the installed version of a distribution; raises PackageNotFoundError.
    """
    from packaging.requirements import Requirement

    needed = [
        requirement
        for requirement in map(Requirement, wanted)
        if not requirement.marker or requirement.marker.evaluate()
    ]
    checks = []
    for requirement in needed:
        bare = f"{requirement.name}{requirement.specifier}"
        remedy = f"{sys.executable} -m pip install '{bare}'"
        try:
            version = version_of(requirement.name)
        except metadata.PackageNotFoundError:
            checks.append(Check(requirement.name, False, "error", f"not installed (wanted {bare})", remedy))
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            checks.append(Check(requirement.name, False, "error", f"{version} is installed, wanted {bare}", remedy))
    return checks or [Check("packages", True, "error", f"{len(needed)} dependencies are installed and in range")]


def check_backport(version_of: Callable[[str], str] = metadata.version) -> Check:
    """Whether img2dataset brought the `dataclasses` backport of Python 3.6."""
    try:
        version = version_of("dataclasses")
    except metadata.PackageNotFoundError:
        return Check("dataclasses backport", True, "warning", "not installed")
    detail = (
        f"dataclasses {version}, which img2dataset pulls in, is for Python 3.6 and breaks what starts with"
        " site-packages first on its path, such as Prefect's ephemeral server; harmless"
        " with the servers of `pairmill up`"
    )
    return Check("dataclasses backport", False, "warning", detail, f"{sys.executable} -m pip uninstall -y dataclasses")


def _source(distribution: metadata.Distribution) -> Path:
    """The folder whose code a distribution runs: of an editable one the checkout, else where it is unpacked."""
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
    return f"{removal}give pairmill a virtual environment of its own, and take that folder out of PYTHONPATH"
