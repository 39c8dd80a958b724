import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dataops.errors import CorruptPart
from dataops.schema import CURATED
from dataops.shards.tar import ShardWriter, read_samples
from dataops.snapshot import Counts, Manifest, read_parts
from dataops.store import FolderStore
from tasks.curate import stage as curate
from tasks.curate.config import CurateConfig
from tasks.curate.inspect_images import inspect_image
from tasks.curate.stage import CURATE, choose_rows
from tasks.engine import partition_steps as range_steps
from tasks.engine.context import Context
from tasks.engine.stage import make, plan
from tests.inline_executor import InlineExecutor
from tests.unit.tasks.raw_images import blocks, downloaded, jpeg, pair, some_pairs


def curated(folder: Path, pairs: list[dict[str, Any]], size: int = 9, **config: Any) -> tuple[FolderStore, Manifest]:
    store = FolderStore(folder)
    planned = plan(CURATE, CurateConfig.model_validate(config), 0, [downloaded(store, pairs, size)])
    return store, make(planned, Context(store, folder, pool=InlineExecutor()))


def rows_by_url(store: FolderStore, made: Manifest) -> dict[str, dict[str, Any]]:
    kept = {row["url"]: row | {"drop_reason": None} for row in read_parts(store, made).to_pylist()}
    return kept | {row["url"]: row for row in read_parts(store, made, "dropped-").to_pylist()}


def reasons(store: FolderStore, made: Manifest) -> dict[str, str]:
    return {url: row["drop_reason"] for url, row in rows_by_url(store, made).items() if row["drop_reason"]}


REASONS = {"a": "exact_duplicate", "c": "near_duplicate", "f": "truncated", "g": "too_small"}


@pytest.mark.parametrize("shard_size", [100, 7, 1])
def test_each_planted_case_and_no_other_is_dropped_on_any_partition(tmp_path: Path, shard_size: int) -> None:
    store, made = curated(tmp_path, some_pairs(), shard_size, same_caption=True)
    assert reasons(store, made) == REASONS
    assert made.counts == Counts(
        input=20, kept=16, dropped={"exact_duplicate": 1, "near_duplicate": 1, "too_small": 1, "truncated": 1}
    )
    kept = read_parts(store, made)
    assert kept.schema == CURATED
    assert all(len(value) == 16 for value in kept["phash"].to_pylist())
    assert store.names("curate") == sorted(made.path(name) for name in [*(p.name for p in made.parts), "manifest.json"])


def test_one_caption_a_picture_where_captions_need_not_agree(tmp_path: Path) -> None:
    found = reasons(*curated(tmp_path, some_pairs()))
    assert found == REASONS | {"d": "exact_duplicate"}
    assert "h" not in found  # equal drawing in other colours is another picture


def test_search_for_near_duplicates_can_be_off(tmp_path: Path) -> None:
    found = curated(tmp_path, some_pairs(), same_caption=True, near_duplicates=False)
    assert reasons(*found) == {k: v for k, v in REASONS.items() if k != "c"}


def test_what_a_loader_draws_by_passes_through(tmp_path: Path) -> None:
    pairs = [pair(f"x{n}", f"caption {n}", jpeg(blocks(100 + n))) for n in range(3)]
    given = [{"sampling_probability": 0.25, "query_ids": [4, 9]}, {"sampling_probability": None, "query_ids": []}, {}]
    store, made = curated(tmp_path, [row | more for row, more in zip(pairs, given, strict=True)])
    kept = read_parts(store, made).sort_by("url")
    assert kept["sampling_probability"].to_pylist() == [0.25, None, None]
    assert kept["query_ids"].to_pylist() == [[4, 9], [], None]


def test_a_cluster_is_named_by_its_smallest_uid_on_kept_and_dropped_rows(tmp_path: Path) -> None:
    found = rows_by_url(*curated(tmp_path, some_pairs()))
    same = [found[url]["uid"] for url in "abcd"]  # near, exact and other captions: one cluster
    assert {found[url]["cluster"] for url in "abcd"} == {min(same)}
    assert {found[url]["cluster"] for url in found if url not in list("abcd")} == {None}
    for row in found.values():  # of each cluster, one row stays
        members = [other for other in found.values() if other["cluster"] == row["cluster"]]
        assert row["cluster"] is None or sum(other["drop_reason"] is None for other in members) == 1


def test_equal_pixels_in_other_bytes_are_one_picture(tmp_path: Path) -> None:
    data = jpeg(blocks(1))
    commented = data[:2] + b"\xff\xfe\x00\x07hello" + data[2:]
    pairs = [pair("a", "one", data, size=90), pair("b", "two", commented, size=91)]
    assert reasons(*curated(tmp_path, pairs)) == {"a": "pixel_duplicate"}


def test_a_picture_without_anything_on_it_is_blank(tmp_path: Path) -> None:
    faint = np.full((64, 64, 3), 200, np.uint8)
    faint[::2] += 2
    line = np.full((64, 64, 3), 255, np.uint8)
    line[30:32, 10:50] = 0  # a drawing in one stroke is a picture
    shown = {
        "white": Image.new("RGB", (64, 64), "white"),
        "faint": Image.fromarray(faint),
        "line": Image.fromarray(line),
    }
    pairs = [pair(name, name, jpeg(image)) for name, image in shown.items()]
    assert reasons(*curated(tmp_path, pairs)) == {"white": "blank", "faint": "blank"}


def test_one_picture_at_too_many_addresses_is_a_placeholder(tmp_path: Path) -> None:
    pairs = [pair(f"p{n}", f"item {n}", jpeg(blocks(1)), "aa") for n in range(4)]
    pairs += [pair(f"q{n}", f"item {n}", jpeg(blocks(2)), "bb") for n in range(3)]
    pairs += [pair("q0", f"another text {n}", jpeg(blocks(2)), "bb") for n in range(3)]  # one address counts once
    store, made = curated(tmp_path, pairs, max_addresses=3)
    assert made.counts.dropped == {"placeholder": 4, "exact_duplicate": 5}
    assert {url for url, why in reasons(store, made).items() if why == "placeholder"} == {"p0", "p1", "p2", "p3"}


def cases_of_health() -> dict[str, tuple[bytes, str | None]]:
    def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
        out = io.BytesIO()
        image.save(out, kind, **options)
        return out.getvalue()

    image = blocks(3)
    good = jpeg(image)
    broken = good[:800] + b"\x00" * 60 + good[860:]
    deep = encoded(Image.fromarray(np.arange(96 * 96, dtype=np.uint16).reshape(96, 96)), "PNG")
    bomb = bytearray(good)
    at = bomb.find(b"\xff\xc0")
    bomb[at + 5 : at + 9] = b"\xff\xff\xff\xff"  # 65,535 x 65,535 pixels in the header
    png = encoded(image, "PNG")
    wrong_pixels = png.replace(b"IDAT", b"IDAT\0", 1)
    return {
        "good": (good, None),
        "CMYK": (jpeg(image.convert("CMYK")), None),
        "grey": (jpeg(image.convert("L")), None),
        "animated GIF, its first frame": (encoded(image, "GIF", save_all=True, append_images=[blocks(4)]), None),
        "PNG under a name for JPEG": (png, None),
        "16 bits": (deep, "unsupported_format"),
        "TIFF": (encoded(image, "TIFF"), "unsupported_format"),
        "a page": (b"<html><p>not found", "not_an_image"),
        "nothing": (b"", "not_an_image"),
        "cut": (good[:-50], "truncated"),
        "cut, with an end mark": (good[:900] + b"\xff\xd9", "corrupt"),
        "damaged inside": (broken, "corrupt"),
        "damaged PNG": (wrong_pixels, "corrupt"),
        "no header": (b"\xff\xd8\xff\xe0", "corrupt"),
        "bomb": (bytes(bomb), "too_many_pixels"),
    }


@pytest.mark.parametrize("name", cases_of_health())
def test_each_kind_of_picture_is_taken_or_refused_by_name(name: str) -> None:
    data, reason = cases_of_health()[name]
    found = inspect_image(data, (96, 96), CurateConfig())
    assert found["drop_reason"] == reason
    assert ("phash" in found) == (reason is None)


def test_rows_and_pictures_that_do_not_go_together_are_an_error(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    source = downloaded(store, some_pairs()[:3], 10)
    tar = source.path("00000.tar")
    good = store.read(tar)
    samples = list(read_samples(io.BytesIO(good), tar))
    for wrong, what in (
        (samples[:2], "found None where 000000002.jpg"),
        ([*samples, ("9", {"jpg": b""})], "'9' has no row"),
    ):
        out = io.BytesIO()
        writer = ShardWriter(out)
        for sample in wrong:
            writer.write(*sample)
        writer.close()
        store.put(tar, out.getvalue())
        with pytest.raises(CorruptPart, match=what):
            make(plan(CURATE, CurateConfig(), 0, [source]), Context(store, tmp_path, pool=InlineExecutor()))


def test_one_process_or_two_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, alone = curated(tmp_path / "alone", some_pairs(), 7)
    monkeypatch.setattr(range_steps, "SMALL_ROWS", 0)
    store = FolderStore(tmp_path / "two")
    planned = plan(CURATE, CurateConfig(), 0, [downloaded(store, some_pairs(), 7)])
    assert make(planned, Context(store, tmp_path, workers=2)).parts == alone.parts


def test_what_was_judged_before_a_crash_is_not_judged_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(curate, "choose_rows", crash)
    with pytest.raises(RuntimeError, match="out of memory"):
        curated(tmp_path, some_pairs(), 7)
    monkeypatch.setattr(curate, "choose_rows", choose_rows)
    monkeypatch.setattr(curate, "inspect_shard", crash)
    _, made = curated(tmp_path, some_pairs(), 7)
    assert made.counts.input == 20


def test_rows_that_come_in_another_order_have_the_same_fate(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(20)
    found = rows_by_url(*curated(tmp_path, [some_pairs()[i] for i in order], 3))
    usual = rows_by_url(*curated(tmp_path / "usual", some_pairs(), 9))
    fate = ("drop_reason", "cluster", "phash")
    assert {u: [r[f] for f in fate] for u, r in found.items()} == {u: [r[f] for f in fate] for u, r in usual.items()}


def test_the_same_rows_give_the_same_bytes_on_a_second_try(tmp_path: Path) -> None:
    digests = set()
    for number in range(2):
        _, made = curated(tmp_path / str(number), some_pairs(), 7)
        digests.add(hashlib.sha256(repr([(p.name, p.sha256) for p in made.parts]).encode()).hexdigest())
    assert len(digests) == 1
