"""Two datasets are compared: each planted difference has its reason, and the counts add up."""

from plugins.versions.datasets import compare_datasets, of_snapshot
from tests.unit.tasks.dataset_chain import dropped_pairs, packed_in, pair, some_pairs


def changed_pairs():
    """Return pairs of the same source without pair 14; each stage drops one more pair, and curate keeps another."""
    reasons = {
        0: ("extract", "page_opt_out"),
        1: ("filter", "too_short"),
        2: ("download", "http_404"),
        4: ("curate", "nsfw"),
    }
    pairs = [pair(n, *reversed(reasons[n])) if n in reasons else pair(n) for n in range(20) if n not in (8, 14)]
    return [*pairs, pair(8, "near_duplicate"), pair(200)]


def compared(store, *chains):
    return compare_datasets(*(of_snapshot(one["pack"], store) for one in chains))


def test_compare_datasets_returns_each_added_and_removed_row_with_its_stage_and_reason(tmp_path):
    store, first = packed_in(tmp_path, [*some_pairs(), *dropped_pairs()], shard_size=6)
    _, second = packed_in(tmp_path, changed_pairs(), shard_size=4, seed=1, settings={"min_chars": 9})
    found = compared(store, first, second)
    assert found.added.why == {
        ("curate", "near_duplicate"): 1, ("curate", "too_small"): 1, ("extract", "not_in_source"): 1,
    }  # fmt: skip
    assert found.removed.why == {
        ("curate", "nsfw"): 1, ("download", "http_404"): 1, ("extract", "not_in_source"): 1,
        ("extract", "page_opt_out"): 1, ("filter", "too_short"): 1,
    }  # fmt: skip
    assert found.common == 12
    assert found.common + found.added.rows.height == second["pack"].counts.kept
    assert found.common + found.removed.rows.height == first["pack"].counts.kept
    reasons = {
        url: (stage, reason) for url, stage, reason in found.removed.rows.select("url", "stage", "reason").iter_rows()
    }
    assert reasons["http://host2.example/2.jpg"] == ("download", "http_404")
    assert found.removed.rows["caption"].str.starts_with("caption ").all()
    assert found.settings == {
        "filter.min_chars": (None, 9), "pack.seed": (0, 1), "pack.shard_size": (6, 4),
    }  # fmt: skip


def test_compare_datasets_counts_common_rows_whose_image_changed(tmp_path):
    store, first = packed_in(tmp_path, [pair(n) for n in range(4)])
    _, second = packed_in(tmp_path, [pair(n, sha256=f"{n // 3:064x}") for n in range(4)])
    found = compared(store, first, second)
    assert (found.common, found.changed) == (4, 3)


def test_compare_datasets_returns_the_latest_stage_and_an_unknown_reason_when_a_snapshot_was_deleted(tmp_path):
    store, first = packed_in(tmp_path, [pair(0), pair(1), pair(2)])
    twice = [pair(1, "too_small"), pair(1, "duplicate_uid", "filter")]
    _, second = packed_in(tmp_path, [pair(0), *twice, pair(2, "no_text", "extract")])
    store.delete_tree(f"extract/{second['extract'].key}")
    found = compared(store, first, second)
    assert found.removed.why == {("", "unknown"): 1, ("curate", "too_small"): 1}
