import io

import numpy as np
import pytest
from PIL import Image

from plugins.browse import images as module
from plugins.browse.images import Images, NoImage
from plugins.browse.rows import Selection, list_rows
from tests.unit.tasks.dataset_chain import jpeg, some_pairs


@pytest.mark.parametrize("label", ["pack.kept", "curate.kept", "curate.dropped", "download.kept"])
def test_images_are_read_by_offset(label, dataset, database, tmp_path):
    images, view = Images(dataset, tmp_path / "indexes"), dataset.view(label)
    originals = {row["uid"]: row["data"] for row in some_pairs()}
    rows = [row for row in list_rows(database, Selection(view)) if row["uid"] in originals]
    assert rows
    for row in rows:
        shown = Image.open(io.BytesIO(images.get(view, row, "small")))
        assert shown.format == "JPEG"
        expected = np.asarray(Image.open(io.BytesIO(originals[row["uid"]])), np.float32)
        assert np.abs(np.asarray(shown, np.float32) - expected).mean() < 6


@pytest.mark.parametrize(
    "change",
    [
        {"shard": "../../../etc/passwd"}, {"shard": "/etc/passwd"}, {"shard": "manifest.json"}, {"shard": "99999.tar"},
        {"key": "../x"}, {"key": "a.b"}, {"key": "0" * 32}, {"key": "\n"}, {"shard": None}, {"status": "failed"},
    ],
)  # fmt: skip
def test_names_in_a_row_lead_nowhere_else(change, dataset, database, tmp_path):
    view = dataset.view("pack.kept")
    row = list_rows(database, Selection(view))[0] | change
    with pytest.raises(NoImage):
        Images(dataset, tmp_path / "indexes").get(view, row, "small")


@pytest.mark.parametrize("data", [b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"<html>", b"", jpeg(1)[:300]])
def test_only_decoded_pixels_are_served(data, dataset, database, tmp_path, monkeypatch):
    monkeypatch.setattr(Images, "read", lambda *_: data)
    view = dataset.view("pack.kept")
    with pytest.raises(NoImage, match="cannot be decoded"):
        Images(dataset, tmp_path / "indexes").get(view, list_rows(database, Selection(view))[0], "small")


def test_large_images_are_refused_before_they_are_decoded(dataset, database, tmp_path, monkeypatch):
    view = dataset.view("pack.kept")
    row = list_rows(database, Selection(view))[0]
    for name in ("MAX_MEMBER", "MAX_AREA"):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, 100)
            with pytest.raises(NoImage):
                Images(dataset, tmp_path / "indexes").get(view, row, "small")
