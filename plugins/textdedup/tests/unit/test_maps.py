"""Checks that near-duplicate captions are dropped equally for any order, parts, partitions, memory and workers."""

import random
from collections import Counter

import pytest

from dataops.schema import uid
from dataops.snapshot import read_parts
from dataops.store import FolderStore
from plugins.textdedup.config import NearCaptionsConfig
from plugins.textdedup.step import NEAR_CAPTIONS
from plugins.textdedup.tests.unit import slow_captions as slow
from tasks.filter.stage import FILTER, plan_sizes
from tests.filter_runs import filtered as filter_rows
from tests.filter_runs import with_sizes
from tests.inline_executor import InlineExecutor, PicklingExecutor

NEAR = "duplicate_near_caption"
PLAIN = {"personal": "keep", "dedupe": ["uid", "pair", "url"], "min_letter_fraction": 0, "max_repeated_fraction": None}


def row(url, caption, number=0):
    where = {"caption_source": "alt", "page_url": "http://p.example/", "source": "made up", "source_offset": number}
    return {"uid": uid(url, caption), "url": url, "caption": caption} | where


def pairs(captions, hosts=3, seed=0):
    chance = random.Random(seed)
    return [row(f"http://host{chance.randrange(hosts)}.example/{i}.jpg", c, i) for i, c in enumerate(captions)]


def filtered(store, rows, *args, **config):
    return filter_rows(store, rows, *args, **(PLAIN | config))


def captions(store, manifest, prefix="part-"):
    return sorted(r["caption"] for r in read_parts(FolderStore(store), manifest, prefix).to_pylist())


def ids(store, manifest):
    return sorted(r["uid"] for r in read_parts(FolderStore(store), manifest).to_pylist())


def test_filter_keeps_one_near_duplicate_per_host_or_overall(tmp_path):
    caption = "An old wooden boat lies on the beach of the island in the evening light"
    rows = [
        row("http://a.example/1.jpg", caption),
        row("http://a.example/2.jpg", caption.replace("wooden", "woolen")),
        row("http://a.example/3.jpg", "An OLD wooden boat, lies on the beach of the island: in the evening light!"),
        row("http://b.example/4.jpg", caption.replace("evening", "evenings")),
        row("http://a.example/5.jpg", "red cat"),
        row("http://a.example/6.jpg", "red hat"),
        row("http://a.example/7.jpg", "!!! ..."),
        row("http://a.example/8.jpg", "??? ..."),
    ]
    off = filtered(tmp_path / "off", rows)
    assert off.counts.kept == 8
    on = filtered(tmp_path / "host", rows, near_captions={})
    assert on.counts.dropped == {NEAR: 2}
    every = filtered(tmp_path / "all", rows, near_captions={"scope": "all"})
    assert every.counts.dropped == {NEAR: 3}
    assert set(captions(tmp_path / "all", every)) >= {"red cat", "red hat", "!!! ...", "??? ..."}
    same = filtered(tmp_path / "same", rows, near_captions={"scope": "all", "threshold": 1})
    assert same.counts.dropped == {NEAR: 1}  # what differs in case and punctuation only
    dropped = read_parts(FolderStore(tmp_path / "all"), every, "dropped-").to_pylist()
    assert {(r["drop_reason"], r["drop_stage"]) for r in dropped} == {(NEAR, "filter")}
    assert every.facts["examples"][NEAR]


def test_order_parts_partitions_slices_and_workers_do_not_change_near_captions(tmp_path):
    row_bytes = NEAR_CAPTIONS.row_bytes(NearCaptionsConfig(threshold=0.8))
    assert plan_sizes(2500, 8, 4 << 20, row_bytes).partitions > 2
    rows = pairs([*slow.variants(6, 200), *["the same again"] * 20], hosts=4)
    found = set()
    for name, parts, stage in (
        ("a", 1, FILTER), ("b", 3, with_sizes(4)), ("c", 7, with_sizes(8, 1 << 7, 1 << 7)),
    ):  # fmt: skip
        shuffled, pool = random.Random(name).sample(rows, len(rows)), PicklingExecutor()
        result = filtered(tmp_path / name, shuffled, parts, stage, pool, near_captions={}, memory_limit_bytes=64 << 20)
        found.add(tuple(ids(tmp_path / name, result)))
    assert len(found) == 1
    assert result.counts.dropped[NEAR] > 20


def test_near_captions_resume_at_the_first_missing_task(tmp_path):
    rows, stage = pairs(slow.variants(9, 90)), with_sizes(2)
    calls = Counter()

    def count(task):
        calls[task.id] += 1
        if calls.total() == stop:
            raise KeyboardInterrupt

    pool = InlineExecutor(count)
    stop = 0
    whole = filtered(tmp_path / "whole", rows, 3, stage, pool, 0, near_captions={})
    total = calls.total()
    for stop in (total // 3, total - 4):
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            filtered(tmp_path / str(stop), rows, 3, stage, pool, 0, near_captions={})
        interrupted, stop = stop, 0
        again = filtered(tmp_path / str(interrupted), rows, 3, stage, pool, 0, near_captions={})
        assert again.content_digest == whole.content_digest
        assert calls.total() == total + 1  # only what was interrupted was begun twice
