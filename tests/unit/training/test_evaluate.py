"""The job end to end on real files, with a model whose answers are known by construction."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from dataops.errors import ConfigError
from tests.colour_sets import COLOURS, NAMES, content, load_colours, png, shown, write_set
from tests.small_model import write_model
from training.evaluate import evaluate, main
from training.evaluation.features import encode_set
from training.evaluation.suite import Suite
from training.evaluation.task import Task
from training.evaluation.zero_shot import classify


@pytest.fixture
def loaded():
    return load_colours()


def task_of(root, kind="classification"):
    return Task(name=root.name, kind=kind, root=str(root))


def test_classification_counts_correct_images(tmp_path, loaded):
    samples = [shown("red", "red"), shown("green", "green"), shown("blue", "red"), shown("white", "white")]
    samples += [{"png": b"no image", "cls": b"1"}, {"png": samples[0]["png"][:48], "cls": b"1"}]
    task = task_of(write_set(tmp_path / "data", samples, templates=("{c}", "a {c} square")))
    result, table = classify(loaded, task, encode_set(loaded, task.data, batch_size=4))
    metrics = result["metrics"]
    assert (result["n"], result["classes"], result["templates"], result["unreadable"]) == (6, 5, 2, 2)
    assert metrics["top1"]["value"] == pytest.approx(3 / 6)
    assert metrics["top5"]["value"] == pytest.approx(4 / 6)  # all that can be read: five classes
    assert metrics["top1"]["chance"] == pytest.approx(1 / 5)
    assert metrics["top5"]["chance"] == 1.0
    # red 1 of 4 (two of them unreadable), green 1 of 1, white 1 of 1; black and blue have no image
    assert metrics["mean_per_class"] == {
        "value": pytest.approx((1 / 4 + 1 + 1) / 3),
        "low": None,
        "high": None,
        "chance": 0.2,
    }

    rows = table.to_pylist()
    assert [row["status"] for row in rows] == ["ok"] * 4 + ["unreadable"] * 2
    assert [row["predicted_name"] for row in rows[:4]] == ["red", "green", "blue", "white"]
    assert (rows[2]["key"], rows[2]["label_name"], rows[2]["top5"][0]) == ("s002", "red", 3)
    assert rows[2]["rank"] > 1
    assert rows[2]["top5"][rows[2]["rank"] - 1] == 1
    assert rows[0]["scores"] == sorted(rows[0]["scores"], reverse=True)
    assert rows[4]["rank"] is None
    assert "not a readable picture" in rows[4]["error_message"]


@pytest.fixture
def suite(tmp_path):
    broken = {"png": b"no image", "cls": b"0"}
    one = write_set(tmp_path / "one", [shown("red", "red"), shown("blue", "green"), broken])
    two = write_set(tmp_path / "two", [{"png": png(COLOURS["red"]), "txt": b"red"}])
    three = write_set(tmp_path / "three", [shown(name, name) for name in ("white", "green", "blue")])
    return Suite(name="s", tasks=(task_of(one), task_of(two, "retrieval"), task_of(three)))


def test_results_have_the_same_bytes_in_any_folder(tmp_path, loaded, suite):
    first = evaluate(loaded, suite, tmp_path / "x", checkpoint_digest="d", threads=1)
    second = evaluate(loaded, suite, tmp_path / "y", checkpoint_digest="d", threads=4)
    assert first == second
    assert content(tmp_path / "x") == content(tmp_path / "y")
    assert list(json.loads((tmp_path / "x/metrics.json").read_bytes())) == ["one", "two", "three"]
    assert pq.read_table(tmp_path / "x/predictions-three.parquet").num_rows == 3
    assert not any(str(tmp_path).encode() in data for data in content(tmp_path / "x").values())


def test_an_interrupted_job_redoes_only_what_is_unfinished(tmp_path, loaded, suite):
    whole = evaluate(loaded, suite, tmp_path / "whole", checkpoint_digest="d")
    preprocess, calls = loaded.preprocess, 0

    def stops_at_the_fourth(image):
        nonlocal calls
        calls += 1
        if calls > 3:
            raise KeyboardInterrupt
        return preprocess(image)

    loaded.preprocess = stops_at_the_fourth
    with pytest.raises(KeyboardInterrupt):
        evaluate(loaded, suite, tmp_path / "out", checkpoint_digest="d", threads=1)
    assert not (tmp_path / "out/metrics.json").exists()
    loaded.preprocess, loaded.model.images = preprocess, 0
    assert evaluate(loaded, suite, tmp_path / "out", checkpoint_digest="d") == whole
    assert loaded.model.images == 3  # only the third task's
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_result_is_reused_only_for_equal_inputs(tmp_path, loaded, suite):
    def images_seen(**changed):
        loaded.model.images = 0
        evaluate(loaded, suite, tmp_path / "out", **{"checkpoint_digest": "d", "batch_size": 256, **changed})
        return loaded.model.images

    assert images_seen() == 6
    assert images_seen() == 0
    (tmp_path / "out/predictions-one.parquet").write_bytes(b"torn")
    assert images_seen() == 2
    (tmp_path / "three/classnames.txt").write_text("black\nred\ngreen\nblue\nwhite\n")
    assert images_seen() == 3
    assert images_seen(checkpoint_digest="e") == 6
    assert images_seen(batch_size=1) == 6
    assert images_seen(precision="bf16_texts") == 6


def write_job(path, suite, **keys):
    job = {"suite": suite.model_dump(mode="json"), "batch_size": 256, "parent_pid": None, **keys}
    path.write_text(json.dumps(job, default=str))
    return path


def test_the_command_evaluates_a_checkpoint(tmp_path, suite):
    checkpoint = write_model(tmp_path / "checkpoint", NAMES)
    job = write_job(tmp_path / "job.json", suite, checkpoint=checkpoint, output=tmp_path / "out")
    assert main([str(job)]) == 0
    metrics = json.loads((tmp_path / "out/metrics.json").read_bytes())
    assert metrics["one"]["metrics"]["top1"]["chance"] == pytest.approx(0.2)
    (checkpoint / "tokenizer.json").unlink()
    assert main([str(job)]) == ConfigError.exit_code
    failure = json.loads((tmp_path / "out/failure.json").read_text())  # torchrun itself would always end with 1
    assert (failure["exit_code"], failure["error"]) == (2, "ConfigError")


def test_bf16_texts_changes_scores_by_a_rounding_and_no_feature_of_an_image(tmp_path, suite):
    checkpoint = write_model(tmp_path / "checkpoint", NAMES)
    features, scores = {}, {}
    for precision in ("fp32", "bf16_texts"):
        output, kept = tmp_path / precision, tmp_path / f"{precision}-features"
        keys = {"checkpoint": checkpoint, "output": output, "features": kept, "precision": precision}
        assert main([str(write_job(tmp_path / "job.json", suite, **keys))]) == 0
        features[precision] = content(kept)
        scores[precision] = np.array(pq.read_table(output / "predictions-three.parquet")["scores"].to_pylist())
    assert features["bf16_texts"] == features["fp32"] != {}
    assert 0 < np.abs(scores["bf16_texts"] - scores["fp32"]).max() < 0.01


def test_damaged_data_ends_in_exit_code_3(tmp_path, suite, caplog):
    checkpoint = write_model(tmp_path / "checkpoint", NAMES)
    job = write_job(tmp_path / "job.json", suite, checkpoint=checkpoint, output=tmp_path / "out")
    shard = tmp_path / "three/test/0.tar"
    shard.write_bytes(shard.read_bytes()[:1500])
    assert main([str(job)]) == 3
    assert str(shard) in caplog.text
    assert not (tmp_path / "out/metrics.json").exists()
