"""The registered model: it scores without pairmill, and is found by its name."""

import base64
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from dataops.errors import ConfigError
from dataops.storage.cached_files import delete_unheld
from tasks.models.find import find_model
from tests.integration.register.bare_environment import BareEnvironment
from tests.kills.seaweed import free_port
from tests.python_code import run_python
from tests.registrations import TEXTS

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("register"),
]  # an environment, a server and imports of MLflow take long on a busy machine


# The reference scores: load_model, the encoders and softmax, without the code of the pyfunc.
REFERENCE = """
import io, json, sys, torch
from pathlib import Path
from PIL import Image
from training.model.checkpoint import load_model

loaded = load_model(Path(sys.argv[1]))
images = [Image.open(path) for path in json.loads(sys.argv[2])]
pixels = torch.stack([loaded.preprocess(image) for image in images])
image = torch.nn.functional.normalize(loaded.model.encode_image(pixels), dim=-1)
text = torch.nn.functional.normalize(loaded.model.encode_text(loaded.tokenizer(json.loads(sys.argv[3]))), dim=-1)
cosines = image @ text.T
chances = (cosines * loaded.model.logit_scale.exp()).softmax(dim=-1)
print(json.dumps({"similarities": cosines.tolist(), "probabilities": chances.tolist()}))
"""


# In an environment without pairmill: importable packages, scores, and the classes that were unpickled.
PREDICT = """
import base64, importlib.util, json, sys
import mlflow.pyfunc, pandas as pd
from mlflow.exceptions import MlflowException

class Pickled(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input

uri, folder, paths, texts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), json.loads(sys.argv[4])
ours = ("flows", "tasks", "infra", "dataops", "training", "prefect", "boto3")
report = {"foreign": [name for name in ours if importlib.util.find_spec(name)], "unpickled": []}
images = [open(path, "rb").read() for path in paths]
coded = [base64.b64encode(image).decode() for image in images]
others = ["no image", "/etc/passwd", "http://x/y.png", "file:red.png", "file:../red.png", "file:/etc/passwd", "file:none"]
frame = pd.DataFrame({"image": [*images, *coded, f"data:image/png;base64,{coded[0]}", b"no image", *others]})
frame.index += 7
sys.addaudithook(lambda event, what: event == "pickle.find_class" and report["unpickled"].append(str(what)))
for name, settings in (("strict", {}), ("allowed", {"image_folder": folder})):
    model = mlflow.pyfunc.load_model(uri, model_config=settings)
    scores = model.predict(frame, params={"texts": texts})
    report[name] = scores.to_dict("records")
prompted = model.predict(frame[:1], params={"texts": texts, "templates": ["a photo of {c}", "{c}"]})
report |= {"index": list(scores.index), "prompted": prompted.to_dict("records"), "unpickled": [*report["unpickled"]]}
mlflow.pyfunc.save_model("pickled", python_model=Pickled(), pip_requirements=[])
try:
    mlflow.pyfunc.load_model("pickled")
except MlflowException as error:
    report["refused"] = str(error)
print(json.dumps(report))
"""


@pytest.mark.long
def test_model_loaded_and_served_with_only_its_requirements_scores_as_here(registered, mlflow_url, upstream, tmp_path):
    from mlflow.artifacts import download_artifacts

    uri, paths = "models:/clip-demo@champion", []
    for color in ("red", "blue"):
        image = Image.new("RGB", (48, 40), "white")
        ImageDraw.Draw(image).ellipse((6, 6, 36, 36), fill=color)
        image.save(tmp_path / f"{color}.png")
        paths.append(tmp_path / f"{color}.png")
    requirements = Path(download_artifacts(artifact_uri=f"{uri}/requirements.txt", dst_path=str(tmp_path)))
    bare = BareEnvironment(tmp_path / "bare", requirements.read_text().splitlines())
    with serving(bare, uri, tmp_path) as address:  # they start side by side
        arguments = (uri, str(tmp_path), json.dumps([str(path) for path in paths]), json.dumps(TEXTS))
        report = json.loads(bare.python(PREDICT, *arguments, cwd=tmp_path))
        coded = [base64.b64encode(path.read_bytes()).decode() for path in paths]
        served = score(address, coded)["predictions"]
        for path in ("/etc/passwd", "file:red.png"):  # MLflow itself refuses what is not base64
            with pytest.raises(urllib.error.HTTPError, match="400") as refused:
                score(address, [path])
            refused.value.close()
    reference = json.loads(run_python(REFERENCE, upstream.model, *arguments[2:]).stdout)
    for rows in (report["strict"][:2], report["strict"][2:4], report["allowed"][:2], served):
        for row, cosines, chances in zip(rows, reference["similarities"], reference["probabilities"], strict=True):
            assert row["similarities"] == pytest.approx(cosines, abs=1e-5)
            assert row["probabilities"] == pytest.approx(chances, abs=1e-5)
            assert row["label"] == TEXTS[chances.index(max(chances))]
            assert row["error"] is None
    assert report["strict"][4] == report["strict"][0]
    assert report["strict"][5]["probabilities"] is None
    assert "not a readable picture" in report["strict"][5]["error"]
    assert [row["error"] for row in report["strict"][6:]] == ["neither image bytes nor base64"] * 7
    assert [row["error"] is None for row in report["allowed"][6:]] == [False, False, False, True, False, False, False]
    assert sum(report["prompted"][0]["probabilities"]) == pytest.approx(1)
    assert report["index"] == list(range(7, 20))
    assert report["foreign"] == report["unpickled"] == []
    assert "pickle is disallowed" in report["refused"]


@contextmanager
def serving(bare, uri, folder):
    """Run `mlflow models serve` of that environment inside the `with`; yields its URL."""
    port = free_port()
    command = [
        str(bare.programs / "mlflow"),
        "models",
        "serve",
        "-m",
        uri,
        "--env-manager",
        "local",
        "--port",
        str(port),
    ]
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=bare.variables(), stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield f"http://127.0.0.1:{port}"
    except OSError as error:
        raise AssertionError((folder / "serve.log").read_text()[-3000:]) from error
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def score(address, images, patience_s=60):
    """Return the scores of the served model for images against TEXTS, as soon as it answers."""
    body = {
        "dataframe_split": {"columns": ["image"], "data": [[image] for image in images]},
        "params": {"texts": TEXTS},
    }
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/invocations", json.dumps(body).encode(), headers)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.URLError as error:
            if isinstance(error, urllib.error.HTTPError) or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def test_find_model_downloads_a_registered_model_once(registered, upstream, tmp_path):
    by_alias = find_model("models:/clip-demo@champion", tmp_path)
    assert by_alias.path.is_relative_to(tmp_path)
    assert by_alias.name == f"models:/clip-demo/{registered[0].facts['version']}"
    assert by_alias.digest == find_model(str(upstream.model), tmp_path).digest
    fetched = (by_alias.path / "model.safetensors").stat().st_mtime_ns
    assert find_model(f"clip-demo/{registered[0].facts['version']}", tmp_path) == by_alias
    assert (by_alias.path / "model.safetensors").stat().st_mtime_ns == fetched
    assert [path.name for path in (tmp_path / "models").iterdir()] == [by_alias.path.name]
    assert not delete_unheld(by_alias.path), "this process holds it"
    shutil.rmtree(by_alias.path)  # by somebody else
    assert find_model("models:/clip-demo@champion", tmp_path) == by_alias
    assert not delete_unheld(by_alias.path)
    for none in ("models:/clip-demo/999", "models:/clip-demo@nobody", "models:/no such model/1"):
        with pytest.raises(ConfigError, match="refused"):
            find_model(none, tmp_path)
