"""Compiled code is found again by other checkouts and processes, and never used for other code."""

import importlib.util
import os
import subprocess
import sys
import textwrap

import pytest

CALLED = """
from dataops.kernels.compiled import compiled

@compiled(inline="always")
def add(a):
    return a + {added}
"""
CALLER = """
from {called} import add
from dataops.kernels.compiled import compiled

FACTOR = {factor}

@compiled()
def compute(a):
    return FACTOR * add(a)
"""


class Checkout:
    """A folder with two modules, of which one calls the other's compiled function."""

    def __init__(self, folder, monkeypatch, *, added=1, factor=10):
        folder.mkdir()
        self.folder, self.monkeypatch = folder, monkeypatch
        (folder / "kernel_called.py").write_text(CALLED.format(added=added))
        (folder / "kernel_caller.py").write_text(CALLER.format(called="kernel_called", factor=factor))

    def compute(self):
        """Return the result of a new import of the modules, and how often a function was compiled."""
        for name in ("kernel_called", "kernel_caller"):
            self._load(name)
        compute = sys.modules["kernel_caller"].compute
        result = compute(1)
        return result, sum(compute.dispatcher.stats.cache_misses.values())

    def _load(self, name):
        spec = importlib.util.spec_from_file_location(name, self.folder / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        self.monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "caches"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path / "caches" / "pairmill" / "kernels"


def test_code_is_found_after_a_touch_and_in_a_clone(tmp_path, monkeypatch):
    first = Checkout(tmp_path / "first", monkeypatch)
    assert first.compute() == (20, 1)
    assert first.compute() == (20, 0)
    os.utime(first.folder / "kernel_caller.py", (1, 1))
    assert first.compute() == (20, 0)
    assert Checkout(tmp_path / "clone", monkeypatch).compute() == (20, 0)


def test_other_code_other_constants_and_other_called_code_are_compiled(tmp_path, monkeypatch):
    assert Checkout(tmp_path / "first", monkeypatch).compute() == (20, 1)
    assert Checkout(tmp_path / "called", monkeypatch, added=2).compute() == (30, 1)
    assert Checkout(tmp_path / "constant", monkeypatch, factor=7).compute() == (14, 1)


def test_code_for_another_processor_is_beside_it(tmp_path, monkeypatch, folder):
    checkout = Checkout(tmp_path / "first", monkeypatch)
    assert checkout.compute() == (20, 1)
    entries = set(folder.iterdir())
    from numba.core.codegen import JITCPUCodegen

    with monkeypatch.context() as other:
        other.setattr(JITCPUCodegen, "magic_tuple", lambda self: ("triple", "another processor", ""))
        assert checkout.compute() == (20, 1)
        assert checkout.compute() == (20, 0)
    assert checkout.compute() == (20, 0)
    assert entries < set(folder.iterdir())


@pytest.mark.parametrize(
    ("suffix", "damage"), [("nbi", b""), ("nbi", b"no pickle"), ("nbc", b""), ("nbc", b"\x80\x04cut")]
)
def test_damaged_code_is_compiled_again(tmp_path, monkeypatch, folder, suffix, damage):
    checkout = Checkout(tmp_path / "first", monkeypatch)
    checkout.compute()
    for entry in folder.glob(f"*.{suffix}"):
        entry.write_bytes(damage)
    assert checkout.compute() == (20, 1)
    for entry in folder.glob("*.nbi"):
        entry.unlink()
    assert checkout.compute() == (20, 1)
    assert checkout.compute() == (20, 0)


def test_code_is_not_loaded_from_a_folder_that_others_can_write_to(tmp_path, monkeypatch, folder):
    checkout = Checkout(tmp_path / "first", monkeypatch)
    checkout.compute()
    folder.chmod(0o777)
    monkeypatch.setattr("numba.core.caching.pickle.loads", lambda _: pytest.fail("a pickle was loaded"))
    assert checkout.compute() == (20, 1)


def test_two_processes_that_compile_for_other_types_keep_both(tmp_path, folder):
    """numba alone writes both to one file, so that the code of one type would be called for the other."""
    code = """
    import importlib.util, sys
    for name in ("kernel_called", "kernel_caller"):
        spec = importlib.util.spec_from_file_location(name, f"{sys.argv[1]}/{name}.py")
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    print(*(module.compute(eval(value)) for value in sys.argv[2:]))
    """
    (tmp_path / "kernel_called.py").write_text(CALLED.format(added=1))
    (tmp_path / "kernel_caller.py").write_text(CALLER.format(called="kernel_called", factor=10))
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    started = [subprocess.Popen([*command, value], stdout=subprocess.PIPE, text=True) for value in ("1", "1.5")]
    assert [process.communicate()[0].strip() for process in started] == ["20", "25.0"]
    assert subprocess.check_output([*command, "1", "1.5"], text=True).strip() == "20 25.0", "both are loaded"
    assert len(list(folder.glob("kernel_caller*.nbc"))) == 2
