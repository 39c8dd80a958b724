"""The cut of a download by host, and the order of its tasks, for any rows."""

from collections import Counter, defaultdict
from dataclasses import dataclass

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataops.schema import FILTERED, uid
from dataops.snapshot import Draft, read_table
from dataops.store import FolderStore
from tasks.download.host_cut import IMAGES_PER_SECOND, Unit, bundle_units, cut_by_host
from tasks.download.rounds import HANDED, ShardCut
from tasks.engine.context import Context
from tasks.engine.map_parts import TaskOrder, TaskQueue


def put(draft, urls, name="rows", **more):
    rows = [{"uid": uid(url, str(number)), "url": url, "caption": str(number)} for number, url in enumerate(urls)]
    table = pa.Table.from_pylist(rows, FILTERED)
    for column, values in more.items():
        table = table.append_column(HANDED.field(column), pa.array(values, HANDED.field(column).type))
    draft.put_table(f"_work/{name}.parquet", table)
    return draft.path(f"_work/{name}.parquet"), len(urls)


def cut(folder, objects_of, size, **options):
    """Return the rows of each shard, and check that each row is in one of them."""
    draft = Draft(FolderStore(folder), "download", "k")
    objects = [put(draft, urls, f"rows{number}") for number, urls in enumerate(objects_of)]
    cuts, _ = cut_by_host(draft, objects, 3, Context(draft.store, folder), wave=0, size=size, **options)
    assert [one.number for one in cuts] == list(range(3, 3 + len(cuts)))
    shards = [read_table(draft.store, one.spans[0].name).to_pylist() for one in cuts]
    assert sorted(row["url"] for shard in shards for row in shard) == sorted(url for urls in objects_of for url in urls)
    assert all(len(shard) <= size for shard in shards)
    for shard, one in zip(shards, cuts, strict=True):
        for row in shard:
            row["chain"] = one.chain
    return shards


def test_rows_of_a_host_are_in_one_shard_or_in_one_chain_wherever_they_came_from(tmp_path):
    small = [f"https://h{n % 40}.example/{n}" for n in range(200)]  # 40 domains of 5 rows
    blogs = [f"https://b{n % 30}.blogs-of-others.com/{n}" for n in range(150)]  # one domain, larger than a shard
    big = [f"http://{host}.big-example.com/{n}" for n in range(300) for host in ("www", "img")][:400]
    own = [f"source://mine/{n}.jpg" for n in range(70)]
    urls = [*small, *big, *own, *blogs]
    shards = cut(tmp_path / "a", [urls], size=100)
    chains, of_own = defaultdict(set), 0
    for shard in shards:
        for row in shard:
            if str(row["url"]).startswith("source:"):
                assert row["unit"] == row["chain"] == ""
                of_own += 1
            else:
                chains[row["unit"]].add(row["chain"])
    assert of_own == 70
    assert all(len(found) == 1 for found in chains.values())
    assert {"h7.example", "//www.big-example.com", "//img.big-example.com", "//b3.blogs-of-others.com"} <= chains.keys()
    sizes = Counter(len(shard) for shard in shards)
    assert sum(size >= 80 for size in sizes.elements()) >= len(shards) - 2

    other_parts = cut(tmp_path / "b", [urls[::2], urls[1::2]], size=100)
    key = [[sorted(str(row["url"]) for row in shard) for shard in found] for found in (shards, other_parts)]
    assert [Counter(map(len, one)) for one in key] == [sizes, sizes], "the parts of the input do not matter"


def test_a_host_over_the_limit_has_few_images_that_are_requested(tmp_path):
    urls = [f"http://a.test/{n // 2}" for n in range(40)] + ["http://b.test/1"]  # each image twice
    rows = [row for shard in cut(tmp_path, [urls], size=100, max_host_rows=5) for row in shard]
    asked = {row["url"] for row in rows if not row["limited"]}
    assert (len(asked), len(rows)) == (6, 41)
    assert sum(row["url"] in asked for row in rows) == 11, "both rows of an image"


@pytest.mark.parametrize(
    "host", ["a." * 299 + "test", "x" * 300, "co.uk", "127.0.0.1", "[2606:2800::1]", "%41.test", "ü.test"]
)
def test_odd_hosts_are_cut_too(tmp_path, host):
    assert len(cut(tmp_path, [[f"http://{host}/{n}" for n in range(5)]], size=2)) == 3


units = st.lists(st.tuples(st.integers(1, 3_000), st.sampled_from([0.05, 0.05, 2.0])), min_size=1, max_size=60)


@given(units)
def test_bundles_keep_each_unit_whole_and_waste_no_worker(found):
    all_units = [Unit(f"u{number:03d}", rows, interval) for number, (rows, interval) in enumerate(found)]
    bundles = bundle_units(all_units, 1000)
    assert sorted(unit for bundle in bundles for unit in bundle.units) == sorted(all_units)
    assert bundles == bundle_units(all_units[::-1], 1000) or len(bundles) == 1
    for bundle in bundles:
        rows, longest = sum(unit.rows for unit in bundle.units), max(unit.seconds for unit in bundle.units)
        assert rows <= 1000 * bundle.shards
        if len(bundle.units) > 1 and len(bundles) > 1:
            assert rows / IMAGES_PER_SECOND <= max(longest, 1000 / IMAGES_PER_SECOND) + 1e-9, (
                "the longest is not delayed"
            )


@dataclass(frozen=True)
class Fetch:
    cut: ShardCut

    @property
    def id(self):
        return f"shard-{self.cut.number}"


def test_the_longest_chain_begins_and_no_chain_has_more_tasks_at_once_than_it_may():
    tasks = [Fetch(ShardCut(n, (), f"c{n % 5}" if n < 40 else "", 8, 1.0 + (n % 5 == 3))) for n in range(60)]
    queue = TaskQueue(tasks, TaskOrder(lambda task: task.cut.chain, lambda task: task.cut.seconds, at_once=2))
    first = [queue.pop() for _ in range(12)]
    assert first[0].cut.chain == "c3"
    assert [task.cut.number for task in first if task and task.cut.chain == "c3"] == [3, 8]
    assert Counter(task.cut.chain for task in first if task) == {**{f"c{n}": 2 for n in range(5)}, "": 2}
