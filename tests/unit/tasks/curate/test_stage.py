import io
from hashlib import sha256

import numpy as np
import pytest
from PIL import Image

from dataops.errors import CorruptPart
from dataops.schema import CURATED
from dataops.shards.tar import ShardWriter, read_samples
from dataops.snapshot import Counts, read_parts
from dataops.store import FolderStore
from tasks.curate import stage as curate
from tasks.curate.config import CurateConfig
from tasks.curate.inspect_images import inspect_image
from tasks.curate.stage import CURATE, choose_rows
from tasks.engine.stage import make, plan
from tests.image_files import as_file
from tests.inline_executor import inline_context
from tests.unit.tasks.raw_images import blocks, downloaded, jpeg, pair, some_pairs


def curate_pairs(folder, pairs, size=9, **config):
    store = FolderStore(folder)
    planned = plan(CURATE, CurateConfig.model_validate(config), 0, [downloaded(store, pairs, size)])
    return store, make(planned, inline_context(store, folder))


def rows_by_url(store, manifest):
    kept = {row["url"]: row | {"drop_reason": None} for row in read_parts(store, manifest).to_pylist()}
    return kept | {row["url"]: row for row in read_parts(store, manifest, "dropped-").to_pylist()}


def reasons(store, manifest):
    return {url: row["drop_reason"] for url, row in rows_by_url(store, manifest).items() if row["drop_reason"]}


REASONS = {"a": "exact_duplicate", "c": "near_duplicate", "f": "truncated", "g": "too_small"}


@pytest.mark.parametrize("shard_size", [100, 7, 1])
def test_only_the_planted_cases_are_dropped_for_any_sharding(tmp_path, shard_size):
    store, manifest = curate_pairs(tmp_path, some_pairs(), shard_size, same_caption=True)
    assert reasons(store, manifest) == REASONS
    assert manifest.counts == Counts(
        input=20, kept=16, dropped={"exact_duplicate": 1, "near_duplicate": 1, "too_small": 1, "truncated": 1}
    )
    kept = read_parts(store, manifest)
    assert kept.schema == CURATED
    assert all(len(value) == 16 for value in kept["phash"].to_pylist())
    assert store.names("curate") == sorted(
        manifest.path(name) for name in [*(p.name for p in manifest.parts), "manifest.json"]
    )


def test_images_without_contrast_are_blank(tmp_path):
    faint = np.full((64, 64, 3), 200, np.uint8)
    faint[::2] += 2
    line = np.full((64, 64, 3), 255, np.uint8)
    line[30:32, 10:50] = 0  # one stroke is enough
    cases = {
        "white": Image.new("RGB", (64, 64), "white"),
        "faint": Image.fromarray(faint),
        "line": Image.fromarray(line),
    }
    pairs = [pair(name, name, jpeg(image)) for name, image in cases.items()]
    assert reasons(*curate_pairs(tmp_path, pairs)) == {"white": "blank", "faint": "blank"}


def health_cases():
    image = blocks(3)
    good = jpeg(image)
    broken = good[:800] + b"\x00" * 60 + good[860:]
    deep = as_file(Image.fromarray(np.arange(96 * 96, dtype=np.uint16).reshape(96, 96)), "PNG")
    bomb = bytearray(good)
    at = bomb.find(b"\xff\xc0")
    bomb[at + 5 : at + 9] = b"\xff\xff\xff\xff"  # 65,535 x 65,535 pixels in the header
    png = as_file(image, "PNG")
    wrong_pixels = png.replace(b"IDAT", b"IDAT\0", 1)
    return {
        "good": (good, None),
        "CMYK": (jpeg(image.convert("CMYK")), None),
        "grey": (jpeg(image.convert("L")), None),
        "animated GIF, its first frame": (as_file(image, "GIF", save_all=True, append_images=[blocks(4)]), None),
        "PNG under a name for JPEG": (png, None),
        "16 bits": (deep, None),
        "TIFF": (as_file(image, "TIFF"), "unsupported_format"),
        "a page": (b"<html><p>not found", "not_an_image"),
        "nothing": (b"", "not_an_image"),
        "cut": (good[:-50], "truncated"),
        "cut, with an end mark": (good[:900] + b"\xff\xd9", "corrupt"),
        "damaged inside": (broken, "corrupt"),
        "damaged PNG": (wrong_pixels, "corrupt"),
        "no header": (b"\xff\xd8\xff\xe0", "corrupt"),
        "bomb": (bytes(bomb), "too_many_pixels"),
    }


@pytest.mark.parametrize("name", health_cases())
def test_inspect_image_names_the_reason_of_each_kind_of_damage(name):
    data, reason = health_cases()[name]
    found = inspect_image(data, (96, 96), CurateConfig())
    assert found["drop_reason"] == reason
    assert ("phash" in found) == (reason is None)


def test_rows_and_images_that_do_not_match_are_an_error(tmp_path):
    store = FolderStore(tmp_path)
    source = downloaded(store, some_pairs()[:3], 10)
    tar = source.path("00000.tar")
    out = io.BytesIO()
    writer = ShardWriter(out)
    for sample in list(read_samples(io.BytesIO(store.read(tar)), tar))[:2]:
        writer.write(*sample)
    writer.close()
    store.put(tar, out.getvalue())
    digest = {"sha256": sha256(out.getvalue()).hexdigest()}
    parts = [part.model_copy(update=digest if tar.endswith(part.name) else {}) for part in source.parts]
    changed = source.model_copy(update={"parts": parts})
    for manifest, message in (
        (source, r"00000\.tar is damaged: its sha256"),
        (changed, "found None where 000000002.jpg"),
    ):
        store.put(manifest.path("manifest.json"), manifest.encode())
        with pytest.raises(CorruptPart, match=message):
            make(plan(CURATE, CurateConfig(), 0, [manifest]), inline_context(store, tmp_path))


def test_images_inspected_before_a_crash_are_not_inspected_again(tmp_path, monkeypatch):
    def crash(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(curate, "choose_rows", crash)
    with pytest.raises(RuntimeError, match="out of memory"):
        curate_pairs(tmp_path, some_pairs(), 7)
    monkeypatch.setattr(curate, "choose_rows", choose_rows)
    crash.__name__ = "inspect_shard"  # tasks are named by their function
    monkeypatch.setattr(curate, "inspect_shard", crash)
    _, manifest = curate_pairs(tmp_path, some_pairs(), 7)
    assert manifest.counts.input == 20
