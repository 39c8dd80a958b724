"""The protocols besides zero-shot accuracy, on sets whose answers are known, and what is computed only once."""

import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from dataops.errors import ContractError
from tests.colour_sets import COLOURS, NAMES, load_colours, png, shown, write_set
from training.evaluate import evaluate
from training.evaluation.features import encode_set
from training.evaluation.suite import Suite
from training.evaluation.task import Group, Task


@pytest.fixture
def loaded():
    return load_colours(2)


def npy(values):
    buffer = io.BytesIO()
    np.save(buffer, np.array(values))
    return buffer.getvalue()


def run(loaded, output, *tasks, **keys):
    return evaluate(loaded, Suite(name="s", tasks=tasks), output, checkpoint_digest="d", **keys)


def test_groups_report_the_worst_and_the_gap(tmp_path, loaded):
    samples = [shown("red", "red", npy=npy([9, 0]))] * 3 + [shown("green", "red", npy=npy([9, 1]))]
    samples += [shown("red", "red", npy=npy([9, 1])), shown("green", "red", npy=npy([9, 2]))]
    group = Group(name="region", column=1, values=("Asia", "Europe"), ignore=(2,))
    root = str(write_set(tmp_path / "data", samples))
    task = Task(name="t", kind="classification", root=root, metric="worst_group_top1", group=group)
    result = run(loaded, tmp_path / "out", task)["t"]
    assert [(g["by"], g["name"], g["n"], g["value"]) for g in result["groups"]] == [
        ("region", "Asia", 3, 1.0),
        ("region", "Europe", 2, 0.5),
        ("region", "2", 1, 0.0),
    ]
    assert result["metrics"]["worst_group_top1"]["value"] == 0.5
    assert result["metrics"]["group_gap_top1"]["value"] == 1.0
    assert result["main_metric"] == "worst_group_top1"


def test_the_probe_reads_features_before_the_projection(tmp_path, loaded):
    """Probe blue and black, which differ only in the third colour, which the projection drops."""
    pytest.importorskip("plugins.evaluation_sets")
    samples = [shown(c, c) for c in NAMES for _ in range(12)]
    root = write_set(tmp_path / "data", samples)
    write_set(root, samples, "train")
    protocols = ("linear_probe", "few_shot")
    task = Task(name="t", kind="classification", root=str(root), train_split="train", protocols=protocols)
    result = run(loaded, tmp_path / "out", task)["t"]
    assert result["metrics"]["top1"]["value"] < 1
    assert result["metrics"]["linear_probe_top1"]["value"] == 1
    assert result["probe_features"] == "before the projection"
    assert [each["shots"] for each in result["few_shot"]] == [1, 2, 4, 8]
    assert result["metrics"]["few_shot_8_top1"]["value"] == 1


def test_a_shifted_set_reports_the_gap_to_its_base(tmp_path, loaded):
    base = write_set(tmp_path / "base", [shown("red", "red")] * 4)
    shifted = write_set(tmp_path / "shifted", [shown("red", "red"), shown("green", "red")])
    tasks = [Task(name=p.name, kind="classification", root=str(p)) for p in (base, shifted)]
    tasks[1] = tasks[1].model_copy(update={"base": "base", "samples": 5})
    result = run(loaded, tmp_path / "out", *tasks)
    assert result["shifted"]["robustness"]["gap"] == 0.5
    assert result["shifted"]["expected_n"] == 5
    assert "robustness" not in result["base"]
    assert json.loads((tmp_path / "out/metrics.json").read_bytes()) == result


def flip_middle(data):
    changed = bytearray(data)
    changed[len(data) // 2] ^= 1
    return changed


def test_images_are_encoded_once_for_all_protocols(tmp_path, loaded):
    pytest.importorskip("plugins.evaluation_sets")
    samples = [shown(c, c) for c in NAMES for _ in range(4)]
    root = write_set(tmp_path / "data", samples)
    write_set(root, samples, "train")
    plain = Task(name="plain", kind="classification", root=str(root))
    probed = Task(
        name="probed", kind="classification", root=str(root), train_split="train", protocols=("linear_probe",)
    )
    kept = tmp_path / "features"
    first = run(loaded, tmp_path / "one", plain, probed, features=kept)
    assert loaded.model.images == 40  # test and train, though two tasks ask about the test images
    (root / "zeroshot_classification_templates.txt").write_text("a {c} thing")
    second = run(loaded, tmp_path / "two", plain, probed, features=kept)
    assert loaded.model.images == 40  # other prompts need no other image features
    assert second["plain"]["metrics"] == first["plain"]["metrics"]
    for number, damage in enumerate((lambda data: data[:-40], flip_middle)):
        for path in kept.iterdir():
            path.write_bytes(damage(path.read_bytes()))
        run(loaded, tmp_path / f"damaged-{number}", plain, features=kept)
        assert loaded.model.images == 60 + 20 * number  # damaged features are computed again


def test_cached_features_depend_on_model_and_bytes(tmp_path, loaded):
    root = write_set(tmp_path / "data", [shown("red", "red"), {"png": b"broken", "cls": b"1"}])
    task = Task(name="t", kind="classification", root=str(root))
    kept = tmp_path / "features"
    first = run(loaded, tmp_path / "one", task, features=kept)["t"]
    assert run(loaded, tmp_path / "two", task, features=kept)["t"] == first
    assert (first["unreadable"], loaded.model.images) == (1, 1)
    evaluate(loaded, Suite(name="s", tasks=(task,)), tmp_path / "three", checkpoint_digest="e", features=kept)
    assert loaded.model.images == 2
    fresh = encode_set(loaded, task.data, 8)
    assert fresh.pooled_RW.shape == (1, 3)


def test_association_chooses_the_nearest_images(tmp_path, loaded):
    pytest.importorskip("plugins.evaluation_sets")
    images = {name: {"png": png(colour)} for name, colour in COLOURS.items()}
    root = write_set(tmp_path / "data", [*images.values(), {"png": b"broken"}])  # s000 black, s001 red, ... s005 broken
    keys = [f"s00{n}" for n in range(6)]
    lines = [
        {"cue": "red", "candidates": keys[:4], "associations": ["s001"]},
        {"cue": "green", "candidates": keys[1:], "associations": ["s002", "s005"]},
    ]
    (root / "associations.jsonl").write_text("\n".join(map(json.dumps, lines)))
    task = Task(name="t", kind="association", root=str(root))
    result = run(loaded, tmp_path / "out", task)["t"]
    assert (result["n"], result["unreadable"], result["main_metric"]) == (2, 1, "jaccard")
    assert result["metrics"]["jaccard"]["value"] == pytest.approx((1 + 1 / 3) / 2)
    rows = pq.read_table(tmp_path / "out/predictions-t.parquet").to_pylist()
    assert [row["chosen"][0] for row in rows] == ["s001", "s002"]
    wrong = {
        "associations must be some of": {"associations": ["s009"]},
        "'s009', which is no image": {"candidates": ["s001", "s009"]},
    }
    for message, changed in wrong.items():
        (root / "associations.jsonl").write_text(json.dumps(lines[0] | changed))
        with pytest.raises(ContractError, match=message):
            run(loaded, tmp_path / "other", task)
