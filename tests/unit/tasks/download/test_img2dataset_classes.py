"""Checks what a download worker loads, and that it constructs each transform of albumentations once."""

import pytest

from tests.python_code import run_python

pytestmark = pytest.mark.filterwarnings("ignore:.*fill instead:DeprecationWarning", "ignore:.*fill instead:UserWarning")


def test_a_worker_loads_no_package_that_it_does_not_need():
    code = (
        "import sys, pyarrow as pa\n"
        "from dataops.kernels.without_package import skip_pandas\n"
        "skip_pandas()\n"
        "import tasks.download.worker, tasks.download.outcome as summary\n"
        "rows = pa.table({'url': ['http://IMG.example:80/a'], 'drop_reason': pa.array([None], pa.string())})\n"
        "assert summary.count_by_host(rows) == {'img.example': {'rows': 1}}\n"
        "import importlib.util\n"
        "assert importlib.util.find_spec('wandb') and importlib.util.find_spec('img2dataset.main')\n"
        "names = {'wandb', 'pandas', 'polars', 'scipy', 'torch', 'fire', 'huggingface_hub', 'numba', 'pyarrow.dataset'}\n"
        "print(*names & sys.modules.keys())\n"
        "import scipy.special, scipy.ndimage\n"
        "assert scipy.special.erf(0) == scipy.ndimage.gaussian_filter([0.0], 1)[0] == 0"
    )
    assert run_python(code).stdout.split() == []
