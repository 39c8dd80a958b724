"""Give each test its own home, working folder and environment, and distribute tests over the processes of pytest-xdist."""

import gc
import os
import re
import signal
import tempfile
import warnings
from contextlib import suppress
from functools import cache
from itertools import count
from pathlib import Path
from shutil import rmtree
from urllib.request import install_opener

import psutil
import pytest
from hypothesis import given, settings
from hypothesis.strategies import none
from xdist.scheduler import LoadScopeScheduling

pytest_plugins = ["tests.fixtures"]

gc.disable()  # until all tests are collected: it takes a quarter of the time of imports
# The same examples each time, and no time limit of an example: a busy machine exceeds it. For more of them, run
# `python -m pytest --hypothesis-profile=thorough`.
for name, examples in {"thorough": 1000, "quick": 40}.items():
    settings.register_profile(name, settings.get_profile("ci"), max_examples=examples)
    settings.load_profile(name)

# Hypothesis makes its source of random numbers, and collects garbage twice: here, before there are a million objects. Its
# warning is that this takes time before the tests.
with warnings.catch_warnings(action="ignore"):
    given(none())(lambda nothing: None)()

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell sets it for what it runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # so that commands that tests start can be interrupted
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # as nohup sets it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

_CACHES = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
"""Folder of the compiled functions of the stages, which are the same for all homes: compiling them takes half a minute."""
_FOREIGN = re.compile(
    "(PAIRMILL|PREFECT|MLFLOW|AWS|HF|HUGGINGFACE|OPENLINEAGE|WANDB|GIT|RAY|TORCHELASTIC)_|DATABASE_URL$|(HTTPS?|ALL|NO)_PROXY$"
    "|(FORCE|NO)_COLOR$|COLUMNS$",
    re.IGNORECASE,
)
"""Names of variables that choose servers, stores, logins, folders and the look of outputs: those of whoever runs the tests
are left out."""
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # where pytest keeps the folders of three runs
_FROM_HERE = {name: value for name, value in os.environ.items() if not _FOREIGN.match(name)}
_IS_FIRST = "PYTEST_XDIST_WORKER" not in os.environ
_TEMPORARY = tempfile.mkdtemp(prefix="pairmill-tests-") if _IS_FIRST else tempfile.gettempdir()
"""TMPDIR of all processes of the tests: those that a test kills leave folders in it."""
Path(_TEMPORARY).chmod(0o711)  # Postgres does not run as root
tempfile.tempdir = _TEMPORARY
_COLLECTING = tempfile.mkdtemp(prefix="home-")
"""The home while test modules are imported: Prefect makes a folder in it, and warns if it cannot."""
_OURS = {"XDG_CACHE_HOME": _CACHES, "HOME": _COLLECTING, "TMPDIR": _TEMPORARY}
_OURS["OMP_WAIT_POLICY"] = "PASSIVE"  # as `training` sets it, which some tests import after torch
os.environ.clear()  # before a test module or a fixture of the session reads it
os.environ.update(_FROM_HERE | _OURS)


def pytest_unconfigure():
    """End the servers that interrupted tests left, and delete what the processes of all tests left."""
    if _IS_FIRST:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("TMPDIR") == _TEMPORARY:
                    process.kill()
        rmtree(_TEMPORARY, ignore_errors=True)


@pytest.fixture(scope="session")
def _places(tmp_path_factory):
    """Return new folders, one a test; the first is that of the fixtures which several tests share."""
    base = tmp_path_factory.mktemp("tests", numbered=False)
    folders = (base / f"{number:04}" for number in count())
    _move_into(next(folders))
    return folders


def _move_into(home):
    """Make a folder the user's home, and an empty one in it the working folder."""
    (home / "work").mkdir(parents=True)
    os.environ["HOME"] = str(home)
    os.chdir(home / "work")


@pytest.fixture(autouse=True)
def _own_place(_places):
    """Give the test a home and an empty working folder, and restore environment and working folder after it."""
    home, here, saved = next(_places), Path.cwd(), dict(os.environ)
    _move_into(home)
    yield home
    install_opener(None)  # a download in this process installs one, for worker processes
    os.chdir(here)
    os.environ.clear()
    os.environ.update(saved)


@pytest.fixture
def tmp_path(_own_place, request):
    """Return an empty folder in the test's home, in place of pytest's: no `.pairmill` is found above it."""
    name = re.sub(r"\W", "_", request.node.name)[:30]
    folder = _own_place / f"{name}-{_own_place.name}"  # unique, since tests name prefixes of a bucket after it
    folder.mkdir()
    return folder


class ByFile(LoadScopeScheduling):
    """Assign whole files, and those of one `xdist_group`, which share servers or a costly fixture, to one process."""

    def _split_scope(self, nodeid):
        return _find_group(nodeid.partition("::")[0])


@cache
def _find_group(file):
    """Return the group that a test file names, else the file. Only the processes that run tests have its marks."""
    mark = re.search(r'xdist_group\("(\w+)"\)', (Path(__file__).parent / file).read_text("utf-8"))
    return mark[1] if mark else file


def pytest_xdist_make_scheduler(config, log):
    config.option.loadscopereorder = False  # files with the most tests first, which are not those that take longest
    return ByFile(config, log)


def pytest_collection_modifyitems(items):
    """Begin with the files that take longest: the last one keeps one process busy while others wait.

    Those of the longest `pytest.mark.timeout` come first, then the largest.
    """
    order = {}
    for item in items:
        mark = item.get_closest_marker("timeout")
        size, limit = item.path.stat().st_size, mark.args[0] if mark else 0
        order[item.path] = min((-limit, -size, item.path), order.get(item.path, (0, 0, item.path)))
    items.sort(key=lambda item: order[item.path])


def pytest_collection_finish():
    """Leave modules and tests out of garbage collections: a million objects take 0.6 s, and each training collects."""
    gc.enable()
    gc.freeze()


def pytest_make_parametrize_id(val, argname):
    """Name gzip members by their size: they hold the time, and xdist's processes must collect equal names."""
    return f"{argname}, gzip of {len(val)} bytes" if isinstance(val, bytes) and b"\x1f\x8b" in val else None
