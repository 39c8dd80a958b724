"""Give each test its own home, working folder and environment, and distribute tests over the processes of pytest-xdist."""

import os
import re
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

_TOGETHER = {
    "test_gc.py": "test_chaos.py",
    "test_retry.py": "test_chaos.py",
    "test_s3_pipeline.py": "test_pipeline.py",
    "test_readme.py": "test_pipeline.py",
    "test_secrets.py": "test_deploy.py",
}
"""Test files that run in one process, because they share a costly session fixture or what the other one made."""
_SHARING = ("tests/integration/cluster", "tests/integration/register")
"""Folders of which all files run in one process, which starts their servers once."""
_FIRST = (
    *("test_pipeline.py", "test_s3_pipeline.py", "test_readme.py", "test_deploy.py", "test_secrets.py"),
    *("test_chaos.py", "test_retry.py", "test_gc.py", "test_cluster.py", "test_site_crawl.py", "test_encodings.py"),
    *("test_gate.py", "test_services.py", "test_web_page.py", "test_fuzz.py", "test_train.py", "test_gpu.py"),
    *("test_sharding.py", "test_compiled.py", "test_options.py", "test_ranks.py", "test_takedown_leftovers.py"),
    *("test_frozen_training.py", "test_phases.py", "test_evaluate_ranks.py", "test_networks.py", "test_clustering.py"),
    *("test_export.py", "test_pyfunc.py", "test_page_cost.py"),
)
"""Test files that take longest, begun first: the last file of a run keeps one process busy while the others wait."""

settings.load_profile("ci")  # the same examples each time, and no time limit of an example: a busy machine exceeds it

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell sets it for what it runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # so that commands that tests start can be interrupted

_CACHES = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
"""Folder of the compiled functions of the stages, which are the same for all homes: compiling them takes half a minute."""
_FOREIGN = re.compile(
    "(PAIRMILL|PREFECT|MLFLOW|AWS|HF|HUGGINGFACE|OPENLINEAGE|WANDB|GIT|RAY|TORCHELASTIC)_|DATABASE_URL$|(HTTPS?|ALL|NO)_PROXY$",
    re.IGNORECASE,
)
"""Names of variables that choose servers, stores, logins and folders: those of whoever runs the tests are left out."""
_FROM_HERE = {name: value for name, value in os.environ.items() if not _FOREIGN.match(name)}
os.environ.clear()  # before a test module or a fixture of the session reads it
os.environ.update(_FROM_HERE | {"XDG_CACHE_HOME": _CACHES})


@pytest.fixture(scope="session")
def _places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return new folders, one a test; the first is that of the fixtures which several tests share."""
    base = tmp_path_factory.mktemp("tests", numbered=False)
    folders = (base / f"{number:04}" for number in count())
    _move_into(next(folders))
    return folders


def _move_into(home: Path) -> None:
    """Make a folder the user's home, and an empty one in it the working folder."""
    (home / "work").mkdir(parents=True)
    os.environ["HOME"] = str(home)
    os.chdir(home / "work")


@pytest.fixture(autouse=True)
def _own_place(_places: Iterator[Path]) -> Iterator[Path]:
    """Give the test a home and an empty working folder, and restore environment and working folder after it."""
    home, here, saved = next(_places), Path.cwd(), dict(os.environ)
    _move_into(home)
    yield home
    os.chdir(here)
    os.environ.clear()
    os.environ.update(saved)


@pytest.fixture
def tmp_path(_own_place: Path, request: pytest.FixtureRequest) -> Path:
    """Return an empty folder in the test's home, in place of pytest's: no `.pairmill` is found above it."""
    name = re.sub(r"\W", "_", request.node.name)[:30]
    folder = _own_place / f"{name}-{_own_place.name}"  # unique, since tests name prefixes of a bucket after it
    folder.mkdir()
    return folder


class ByServers(LoadFileScheduling):
    """Assign whole files; those that share servers or a costly fixture run in one process, which starts it once."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        folder, _, name = file.rpartition("/")
        return folder if folder in _SHARING else f"{folder}/{_TOGETHER.get(name, name)}"


def pytest_xdist_make_scheduler(config: Any, log: Any) -> ByServers:
    config.option.loadscopereorder = False  # files with the most tests first, which are not those that take longest
    return ByServers(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the files that take longest first; the others keep their order."""
    rank = {name: number for number, name in enumerate(_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))
