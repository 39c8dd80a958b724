import polars as pl

from dataops.snapshot import read_parts
from plugins.browse.filters import parse_filter
from plugins.browse.rows import (
    Selection,
    cluster_views,
    count_rows,
    fetch_row,
    fetch_rows,
    list_clusters,
    list_numbers,
    list_rows,
)
from plugins.browse.views import ROW


def select(view, *filters, **more):
    return Selection(view, filters=tuple(parse_filter(text, view.columns) for text in filters), **more)


def test_views_have_the_rows_of_all_stages(dataset, database, stored):
    for label in dataset.labels:
        stage, side = label.split(".")
        manifest = stored[1][stage]
        parts = read_parts(stored[0], manifest, "part-" if side == "kept" else "dropped-")
        assert count_rows(database, select(dataset.view(label))) == parts.num_rows, label


def test_rows_are_found_by_their_numbers(dataset, database):
    view = dataset.view("curate.kept")  # several parts
    numbers = list_numbers(database, select(view)).tolist()
    assert len({number >> 32 for number in numbers}) > 1
    some = [numbers[-1], numbers[0], numbers[4], 2**62, 10**6]
    assert [row[ROW] for row in fetch_rows(database, view, some)] == some[:3]
    whole = fetch_row(database, view, numbers[4])
    assert set(whole) == {ROW, *view.columns}
    assert whole["uid"] == fetch_rows(database, view, some)[2]["uid"]
    assert fetch_row(database, view, 2**62) is None


def test_filters_and_order_choose_rows(dataset, database, stored):
    view = dataset.view("pack.kept")
    rows = pl.DataFrame(pl.from_arrow(read_parts(stored[0], stored[1]["pack"])))
    wanted = rows.filter(pl.col("original_width") >= 110)["uid"].to_list()
    selection = select(view, "original_width~min~110", sort="original_width", descending=False)
    found = list_rows(database, selection)
    assert sorted(row["uid"] for row in found) == sorted(wanted)
    assert [row["original_width"] for row in found] == sorted(row["original_width"] for row in found)
    assert count_rows(database, selection) == len(wanted) > 0


def test_clusters_have_their_kept_and_dropped_pairs(dataset, database):
    number, clusters = list_clusters(database, cluster_views(dataset), 0)
    assert number == 1
    assert (clusters[0].name, clusters[0].size) == ("c" * 32, 3)
    assert [view.side for view, _ in clusters[0].members] == ["kept", "kept", "dropped"]
    assert list_clusters(database, [], 0) == (0, [])
