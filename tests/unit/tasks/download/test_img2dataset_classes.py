"""Checks what a download worker loads, and that it constructs each transform of albumentations once."""

import io
import subprocess
import sys
from typing import Any

import cv2
import numpy as np
import pytest

from tasks.download import img2dataset_classes
from tasks.download.resizers import CheckedResizer

pytestmark = pytest.mark.filterwarnings("ignore:.*fill instead:DeprecationWarning", "ignore:.*fill instead:UserWarning")


def test_a_worker_loads_no_package_that_it_does_not_need() -> None:
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
        "assert scipy.special.erf(0) == scipy.ndimage.gaussian_filter([0.0], 1)[0] == 0\n"
        "import webdataset.compat, torch.utils.data\n"
        "assert webdataset.compat.DataLoader is torch.utils.data.DataLoader"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


@pytest.mark.parametrize("mode", ["border", "center_crop"])
def test_a_transform_is_constructed_once_for_each_of_its_arguments(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    albumentations: Any = img2dataset_classes.albumentations
    made: list[str] = []
    for name in ("SmallestMaxSize", "LongestMaxSize", "CenterCrop", "PadIfNeeded"):
        transform = getattr(albumentations, name)
        monkeypatch.setattr(
            albumentations, name, lambda _name=name, _kind=transform, **options: made.append(_name) or _kind(**options)
        )
    resizer = CheckedResizer(image_size=77, resize_mode=mode, resize_only_if_bigger=False)
    results: list[Any] = []
    for size in (90, 120, 40, 90):  # two are larger, and one is smaller: another interpolation
        pixels = np.random.default_rng(size).integers(0, 255, (size, size + 20, 3), np.uint8)
        results.append(resizer(io.BytesIO(cv2.imencode(".png", pixels)[1].tobytes())))
    assert all(result[5] is None for result in results)
    assert results[0] == results[3]
    assert len(made) == 3, "one for each interpolation, and one that crops or pads"
