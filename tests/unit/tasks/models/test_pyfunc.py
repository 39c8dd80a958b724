"""The registered model: which cells are images, and models with different versions of the code in one process."""

import subprocess
import sys

from dataops.home import CHECKOUT
from tests.small_model import write_model

SCORE = """
import sys, warnings
warnings.simplefilter("ignore")
from types import SimpleNamespace
from unittest.mock import MagicMock
for name in ("mlflow", "mlflow.models", "mlflow.pyfunc", "mlflow.pyfunc.model"):  # which take seconds to load
    sys.modules[name] = MagicMock()
sys.modules["mlflow.pyfunc.model"].PythonModel = object
sys.path.insert(0, sys.argv[2])
import training.model
assert training.model.VERSION == 1
sys.path.insert(0, sys.argv[3])  # as MLflow does with the code of a model
import importlib.util
import pandas as pd
spec = importlib.util.spec_from_file_location("pyfunc", sys.argv[4])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
model, context = module.ClipModel(), SimpleNamespace(model_config={}, artifacts={"model": sys.argv[1]})
model.load_context(context)
from training.model import VERSION
assert VERSION == 1 and "training.model.checkpoint" not in sys.modules
scores = model.predict(context, pd.DataFrame({"image": ["no image"]}), {"texts": ["a red kite"]})
print(scores["error"][0])
"""


def test_model_imports_its_own_code_when_the_process_has_another_version_of_it(tmp_path):
    earlier = tmp_path / "training"
    earlier.mkdir()
    (earlier / "__init__.py").touch()
    (earlier / "model.py").write_text("VERSION = 1\n")
    pyfunc = CHECKOUT / "tasks" / "models" / "pyfunc.py"
    command = [
        sys.executable,
        "-c",
        SCORE,
        str(write_model(tmp_path / "model")),
        str(tmp_path),
        str(CHECKOUT),
        str(pyfunc),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "neither image bytes nor base64"
