"""Locations on this machine: the checkout that runs, with its digest, and the folder of everything local."""

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from stat import S_ISDIR

from dataops.errors import ConfigError

logger = logging.getLogger(__name__)

CHECKOUT = Path(__file__).resolve().parent.parent
"""Root of the checkout, or of the image's copy of it, that this process runs."""

PACKAGES = ("dataops", "plugins", "tasks", "training")
"""Packages with the code that makes parts."""

HOME_NAME = ".pairmill"
SERVERS = "services"
"""Folder of the home folder with the databases and logs of the local servers, which only the servers may write."""
WRITTEN = (
    *(
        "browse",
        "cache",
        "deployed",
        "evaluations",
        "features",
        "jobs",
        "models",
        "overlap",
        "pages",
        "runs",
        "slurm",
        "wandb",
    ),
    SERVERS,
)
"""Folders of the home folder that runs and commands write, which a takedown searches; others are sources, stores, or files
of the user."""
_reported: set[Path] = set()
"""Folders of other users for which this process has logged that they are ignored."""


def home() -> Path:
    """Return the folder of everything local, as an absolute path. It may not exist yet.

    It is `PAIRMILL_HOME`, else the nearest `.pairmill` of this user in the working directory or
    above it, else `.pairmill` in the working directory (see `project_folder`).

    Raises: ConfigError if `.pairmill` in the working directory belongs to another user.
    """
    if named := os.environ.get("PAIRMILL_HOME"):
        return Path(named).expanduser().resolve()
    return (project_folder() / HOME_NAME).resolve()


def project_folder() -> Path:
    """Return the folder of the project: the nearest one upwards that has a `.pairmill`, else the working directory.

    The search ends at the user's home folder, at the root of the file system of the working
    directory, and at `/`. It ignores a `.pairmill` of another user: whoever may write to a folder
    above, as everybody may to `/tmp`, could choose the servers, the stores and the logins of this
    user.

    Raises: ConfigError if `.pairmill` in the working directory belongs to another user.
    """
    here = Path.cwd()
    for folder in _folders_upwards(here):
        found = folder / HOME_NAME
        states = _states(found)
        owners = {state.st_uid for state in states}
        if owners <= _own_ids():
            if states and S_ISDIR(states[-1].st_mode):
                return folder
            continue
        foreign = f"{found} belongs to another user (uid {min(owners - _own_ids())})"
        if folder == here:
            raise ConfigError(f"{foreign}; work in a folder of your own, or set PAIRMILL_HOME to the folder to use")
        if found not in _reported:
            _reported.add(found)
            logger.warning("%s and is ignored; set PAIRMILL_HOME to use it", foreign)
    return here


def recorded_base() -> Path | None:
    """Return the folder that the relative paths of run records start at: that in which the home is.

    None if the home is not `.pairmill` in a folder, so that records have absolute paths.
    """
    folder = home()
    is_beside = "PAIRMILL_HOME" in os.environ or folder.parent == project_folder()
    return folder.parent if folder.name == HOME_NAME and is_beside else None


def _folders_upwards(here: Path) -> Iterator[Path]:
    """Yield a folder and those above it, up to the user's home folder or the root of the file system."""
    device, users_home = here.stat().st_dev, None
    with suppress(RuntimeError):  # a user without a home folder
        users_home = Path.home().resolve()
    for folder in (here, *here.parents):
        if [state.st_dev for state in _states(folder)] != [device, device]:
            return
        yield folder
        if folder == users_home:
            return


def _states(path: Path) -> list[os.stat_result]:
    """Return what the file system returns of a path, then of the target if it is a link; without what cannot be read."""
    states = []
    for read in (path.lstat, path.stat):
        with suppress(OSError):
            states.append(read())
    return states


def _own_ids() -> set[int]:
    """Return the ids of the users whose folders are trusted: this user, and the user who became root with sudo."""
    by_sudo = os.environ.get("SUDO_UID", "") if os.geteuid() == 0 else ""
    return {os.geteuid(), *([int(by_sudo)] if by_sudo.isdecimal() else [])}


def private_folder(path: Path) -> Path:
    """Make a folder, and those above it that are missing, for this user only; one that is there keeps its mode."""
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    return path


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Return the sha256 over the Python files that make parts, and their names."""
    digest = hashlib.sha256()
    for file in sorted(file for name in PACKAGES for file in (CHECKOUT / name).rglob("*.py")):
        digest.update(f"{file.relative_to(CHECKOUT)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()
