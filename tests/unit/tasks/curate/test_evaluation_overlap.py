import hashlib
import io
from pathlib import Path

import pytest
from PIL import ImageOps

from dataops.errors import ConfigError, SourceError
from dataops.snapshot import read_parts, read_table
from dataops.store import FolderStore
from tasks.curate.config import CurateConfig
from tasks.curate.evaluation_overlap import MATCHES, MATCHES_PART
from tasks.curate.stage import CURATE
from tasks.engine.stage import make, plan
from tests.inline_executor import inline_context
from tests.tar_files import write_tar
from tests.unit.tasks.raw_images import blocks, downloaded, jpeg, pair


@pytest.fixture
def sets(tmp_path):
    """Write a folder with images 1 and 2, and a tar with image 3, both with other files."""
    folder, tar = tmp_path / "flowers", tmp_path / "cars.tar"
    (folder / "red").mkdir(parents=True)
    (folder / "red" / "1.jpg").write_bytes(jpeg(blocks(1)))
    (folder / "2.png").write_bytes(png(blocks(2)))
    (folder / "labels.txt").write_text("red\n")
    (folder / "broken.jpg").write_bytes(jpeg(blocks(9))[:800])
    return str(folder), str(write_tar(tar, {"val/3.jpg": jpeg(blocks(3)), "val/3.cls": b"7"}))


def png(image):
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def some_pairs():
    one = jpeg(blocks(1))
    return [
        pair("bytes", "the same bytes", jpeg(blocks(5)), hashlib.sha256(one).hexdigest()),  # its shard was re-encoded
        pair("copy", "scaled", jpeg(blocks(2).resize((60, 60)), 70)),
        pair("mirrored", "mirrored", jpeg(ImageOps.mirror(blocks(3)))),
        pair("crop", "cropped", jpeg(blocks(3).crop((6, 4, 94, 92)))),
        *[pair(f"x{n}", f"other {n}", jpeg(blocks(100 + n))) for n in range(6)],
    ]


def curate_with(folder, shard_size=4, **overlap):
    store = FolderStore(folder)
    config = CurateConfig.model_validate({"overlap": overlap})
    planned = plan(CURATE, config, 0, [downloaded(store, some_pairs(), shard_size)])
    return store, make(planned, inline_context(store, folder))


def test_images_of_evaluation_sets_are_dropped_and_listed(tmp_path, sets):
    digests = set()
    for size in (3, 100):
        store, manifest = curate_with(tmp_path / str(size), size, paths=sets)
        dropped = read_parts(store, manifest, "dropped-").to_pylist()
        assert {row["url"]: row["evaluation_overlap"] for row in dropped} == {
            "bytes": sets[0], "copy": sets[0], "mirrored": sets[1], "crop": sets[1]
        }  # fmt: skip
        assert manifest.counts.dropped == {"evaluation_overlap": 4}
        assert manifest.facts == {"evaluation_pictures": 3, "evaluation_unreadable": 1, "evaluation_overlaps": 4}
        found = read_table(store, manifest.path(MATCHES_PART))
        assert found.schema == MATCHES
        urls = {row["uid"]: row["url"] for row in some_pairs()}
        listed = {urls[row["uid"]]: (row["member"], row["kind"]) for row in found.to_pylist()}
        assert listed == {
            "bytes": ("red/1.jpg", "exact"), "copy": ("2.png", "copy"),
            "mirrored": ("cars.tar/val/3.jpg", "mirrored"), "crop": ("cars.tar/val/3.jpg", "crop"),
        }  # fmt: skip
        assert all(0.95 <= row["correlation"] <= 1 and row["distance"] <= 8 for row in found.to_pylist())
        digests.add(next(part.sha256 for part in manifest.parts if part.name == MATCHES_PART))
    assert len(digests) == 1


def test_marked_images_are_kept_with_the_names_of_their_sets(tmp_path, sets):
    store, manifest = curate_with(tmp_path, paths=sets, action="mark")
    kept = {row["url"]: row["evaluation_overlap"] for row in read_parts(store, manifest).to_pylist()}
    assert kept.pop("crop") == sets[1]
    assert {url for url, names in kept.items() if names} == {"bytes", "copy", "mirrored"}
    assert len(kept) == 9


def test_unreadable_evaluation_sets_are_errors_that_name_them(tmp_path, sets):
    with pytest.raises(ConfigError, match=r"'.*nothing' is not a file"):
        curate_with(tmp_path, paths=[f"{tmp_path}/nothing"])
    with pytest.raises(ConfigError, match=r"'' is not a file"):  # a variable without a value; not all files there are
        curate_with(tmp_path, paths=[""])
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("no image")
    with pytest.raises(ConfigError, match=r"no image can be decoded in .*texts"):
        curate_with(tmp_path, paths=[f"{tmp_path}/texts"])
    whole = Path(sets[1]).read_bytes()
    Path(sets[1]).write_bytes(whole[:700])
    with pytest.raises(SourceError, match=r"cars.tar is not a whole tar file"):
        curate_with(tmp_path, paths=[sets[1]])
