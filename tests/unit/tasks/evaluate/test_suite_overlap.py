"""Evaluation images that were trained on are found in the dataset, also as changed copies; others are not."""

import io

from PIL import Image, ImageOps

from dataops.images.decode import decode_pixels
from dataops.images.fingerprint import fingerprint
from tasks.evaluate import suite_overlap as evaluate_overlap
from tasks.evaluate.suite_overlap import find_overlaps
from tests.unit.tasks.dataset_chain import jpeg, packed_in, pair, some_pairs
from training.evaluation.contamination import group_by_task
from training.evaluation.suite import Suite
from training.evaluation.task import Task


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "PNG")


def test_find_overlaps_finds_the_images_that_were_trained_on(tmp_path, monkeypatch):
    pairs = [{**row, "phash": f"{fingerprint(decode_pixels(row['data'])).phash:016x}"} for row in some_pairs()]
    store, manifests = packed_in(tmp_path / "store", pairs, shard_size=5)
    trained = [Image.open(io.BytesIO(jpeg(number))) for number in (0, 1, 3)]  # 3 was dropped by curate
    root = tmp_path / "set"
    write(root / "test/cat/same.png", trained[0])
    write(root / "test/cat/mirrored.png", ImageOps.mirror(trained[1]).resize((60, 60)))
    write(root / "test/dog/dropped.png", trained[2])
    write(root / "test/dog/other.png", Image.open(io.BytesIO(jpeg(500))))
    (root / "test/dog/broken.png").write_bytes(b"no image")
    tasks = [Task(name=name, kind="classification", root=str(root)) for name in ("one", "two")]
    suite = Suite(name="s", tasks=tuple(tasks))
    found = find_overlaps(suite, store, [manifests["pack"]], tmp_path, 2)
    of = {"cat/same.png", "cat/mirrored.png"}
    assert group_by_task(found) == {"one": of, "two": of}
    kinds = {row["member"]: row["kind"] for row in found.to_pylist()}
    assert kinds == {"cat/same.png": "copy", "cat/mirrored.png": "mirrored"}
    assert len(set(found["uid"].to_pylist())) == 2

    last = [{**row, "phash": f"{fingerprint(decode_pixels(row['data'])).phash:016x}"} for row in [pair(500)]]
    second = packed_in(tmp_path / "store", last)[1]["pack"]
    both = find_overlaps(suite, store, [manifests["pack"], second], tmp_path, 2)
    assert group_by_task(both) == {"one": {*of, "dog/other.png"}, "two": {*of, "dog/other.png"}}

    (kept,) = (tmp_path / "overlap").iterdir()  # both tasks and both calls share the index
    monkeypatch.setattr(evaluate_overlap, "describe_image", None)
    assert find_overlaps(suite, store, [manifests["pack"]], tmp_path, 1).equals(found)
    kept.write_bytes(b"PAR1")
    monkeypatch.undo()
    assert find_overlaps(suite, store, [manifests["pack"]], tmp_path, 1).equals(found)
