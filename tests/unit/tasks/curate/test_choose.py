import numpy as np
import pyarrow as pa
import pytest

from dataops.schema import uid
from dataops.snapshot import Draft
from dataops.store import FolderStore
from tasks.curate.choose import choose_rows, read_decisions
from tasks.curate.config import CurateConfig, Units
from tasks.curate.evaluation_overlap import MATCHES
from tasks.curate.inspect_images import INSPECTED, RawShard, inspected_name
from tasks.engine.exchange import run_step

DROPS = {"overlap": {"paths": ["sets"]}, "max_addresses": 2}


def choose(
    folder,
    shards,
    overlaps=None,
    sources=(),
    units=None,
    **config,
):
    """Return the decisions on inspected rows, given by raw shard."""
    draft = Draft(FolderStore(folder), "curate", "k")
    for number, rows in enumerate(shards):
        draft.put_table(inspected_name(f"{number:05d}"), pa.Table.from_pylist(rows, INSPECTED))
    found = [{"uid": u, "evaluation_set": name} for u, names in (overlaps or {}).items() for name in names]
    matches = draft.path(draft.put_table("matches.parquet", pa.Table.from_pylist(found, MATCHES)).name)
    parsed = CurateConfig.model_validate(config).with_sources(sources).with_units(units or Units())
    raw = [RawShard("", len(rows), f"raw/{number:05d}.tar", "", "jpg", parsed) for number, rows in enumerate(shards)]

    def run_in_process(tasks):
        return [draft.finish(run_step(draft, task)) for task in tasks]

    choose_rows(raw, parsed, matches if parsed.overlap else None, run_in_process)
    tables = [read_decisions(draft, shard.number) for shard in raw]
    return [row for table in tables for row in table.to_pylist()]


@pytest.fixture(params=[Units(), Units(25, 8, 60)], ids=["one partition", "several"])
def units(request):
    return request.param


def synthetic_rows(seed, count):
    """Return rows with all kinds of duplicates, and chains of them."""
    random = np.random.default_rng(seed)
    hashes = random.integers(0, 2**64, 6, np.uint64)

    def row(number):
        image = int(random.integers(0, 30))
        flips = sum(1 << int(bit) for bit in random.integers(0, 64, image % 8))
        reason = str(random.choice(["blank", "corrupt"])) if random.random() < 0.1 else None
        decoded = {
            "phash": int(hashes[image % 6]) ^ flips,
            "thumbnail": bytes([image % 6 * 20 + int(random.integers(0, 12))]) * 3,
        }
        return {
            "uid": uid(str(number), ""),
            "url": f"u{int(random.integers(0, 4))}",
            "caption": str(random.choice(["A  red house", "a red house", "else"])),
            "sha256": f"{image}-{int(random.integers(0, 3))}",
            "original_area": int(random.integers(1, 4)),
            "drop_reason": reason,
            **(decoded if reason != "corrupt" else {}),
        }

    return [row(number) for number in range(count)]


def brute_force(rows, overlaps, config):
    """Return drop reason and cluster of each row, by comparing each with each."""
    reasons = [row["drop_reason"] for row in rows]
    urls = {}
    for row in rows:
        if row.get("phash") is not None:
            urls.setdefault(row["sha256"], set()).add(row["url"])
    for i, row in enumerate(rows):
        if reasons[i] is None and len(urls[row["sha256"]]) > config.max_addresses:
            reasons[i] = "placeholder"
        elif reasons[i] is None and row["uid"] in overlaps and config.overlap and config.overlap.action == "drop":
            reasons[i] = "evaluation_overlap"
    left = [i for i, reason in enumerate(reasons) if reason is None]
    label = {i: i for i in left}

    def near(one, two):
        apart = max(abs(a - b) for a, b in zip(one["thumbnail"], two["thumbnail"], strict=True))
        bits = (one["phash"] ^ two["phash"]).bit_count()
        return bits <= config.near_duplicate_distance and apart <= config.near_duplicate_tolerance

    def same_group(one, two):
        words = [" ".join(row["caption"].casefold().split()) for row in (one, two)]
        return not config.same_caption or words[0] == words[1]

    kinds = {
        "exact_duplicate": lambda one, two: one["sha256"] == two["sha256"],
        **({"near_duplicate": near} if config.near_duplicates else {}),
    }
    for reason, same in kinds.items():
        there = [i for i in left if reasons[i] is None]
        part = {i: {i} for i in there}
        for i in there:
            for j in there:
                if part[i] is not part[j] and same_group(rows[i], rows[j]) and same(rows[i], rows[j]):
                    part[i] |= part[j]
                    part |= dict.fromkeys(part[j], part[i])
        for members in part.values():
            best = min(members, key=lambda i: (-rows[i]["original_area"], -len(rows[i]["caption"]), rows[i]["uid"]))
            for i in members - {best}:
                reasons[i] = reason
            label = {i: best if root in members else root for i, root in label.items()}
    names = {root: min(rows[i]["uid"] for i in left if label[i] == root) for root in label.values()}
    several = {root for root in label.values() if sum(other == root for other in label.values()) > 1}
    return [(reasons[i], names[label[i]] if label.get(i) in several else None) for i in range(len(rows))]


@pytest.mark.parametrize(
    "config",
    [
        {},
        DROPS,
        {"same_caption": True, "near_duplicate_tolerance": 4},
        {"near_duplicates": False},
        DROPS | {"near_duplicate_distance": 16},
    ],
)
def test_choose_rows_equals_brute_force(tmp_path, config, units):
    rows = synthetic_rows(1, 80)
    overlaps = {row["uid"]: ["b", "a"] for row in rows[::9]}
    parsed = CurateConfig.model_validate(config)
    expected = brute_force(rows, overlaps, parsed)
    found = choose(tmp_path, [rows[:30], rows[30:35], rows[35:]], overlaps, units=units, **config)
    assert [(row["drop_reason"], row["cluster"]) for row in found] == expected
    named = {row["uid"] for row in found if row["evaluation_overlap"] == "a,b"}
    assert named == (set(overlaps) if parsed.overlap else set())
    assert len({reason for reason, _ in expected}) > 3
    assert ("placeholder" in {reason for reason, _ in expected}) == ("max_addresses" in config)


def test_choose_rows_keeps_the_image_of_the_first_source(tmp_path):
    common = {"sha256": "aa", "url": "u", "phash": 1, "thumbnail": b"\0" * 768}
    rows = [("a", "long caption", 2**40, "crawl/x"), ("b", "x", 1, "own/x"), ("c", "caption", 2**47, "list/x")]
    table = [{"uid": u * 32, "caption": c, "original_area": a, "source": s, **common} for u, c, a, s in rows]
    for sources, kept in ((("own", "crawl", "list"), "b"), (("crawl", "own", "list"), "a"), ((), "c")):
        decisions = choose(tmp_path / kept, [table], sources=sources)
        assert [row["uid"][0] for row in decisions if row["drop_reason"] is None] == [kept]
