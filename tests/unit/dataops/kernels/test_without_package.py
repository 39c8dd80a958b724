"""Modules that look for an optional package work without it, and the package is still there afterwards."""

import json
import sys
import threading

import pytest

from dataops.kernels.without_package import without_package
from tests.python_code import run_python


def test_a_package_is_missing_for_this_thread_inside_the_with_only():
    found = []

    def load():
        import colorsys

        found.append(colorsys)

    sys.modules.pop("colorsys", None)
    with without_package("colorsys"):
        with pytest.raises(ModuleNotFoundError):
            load()
        thread = threading.Thread(target=load)
        thread.start()
        thread.join()
        assert len(found) == 1
        load()  # what is loaded stays
    assert len(found) == 2


def test_pyarrow_and_numba_load_neither_pandas_nor_scipy_but_to_pandas_works():
    code = """
import json, sys
import pyarrow as pa
from dataops.kernels.without_package import skip_pandas
skip_pandas()
from dataops.kernels.hashes import hash128
hash128(pa.array(["a"]))
loaded = [name for name in ("pandas", "scipy.linalg") if name in sys.modules]
print(json.dumps([loaded, pa.table({"a": [1]}).to_pandas()["a"].tolist()]))
"""
    assert json.loads(run_python(code).stdout) == [[], [1]]
