"""A dataset that grows: each night asks hosts for new images only, and the union is that of a slow reference."""

import shutil
from contextlib import suppress
from random import Random

import numpy as np
import pytest

from dataops.errors import ContractError, CorruptPart, NothingLeft, PairmillError
from dataops.images import decode
from dataops.images.fingerprint import fingerprint
from dataops.schema import uid
from dataops.shards.tar import read_samples
from dataops.snapshot import load_manifest, read_parts
from dataops.store import FolderStore
from dataops.trace.requests import make_request, record_request
from dataops.trace.targets import Target
from flows.config import validate_values
from flows.next_version import compact
from tasks.engine.stage import make, plan
from tasks.growth.versions import find_newest, find_packs, list_newest, load_version
from tasks.pack.make_runs import shuffle_keys
from tasks.pack.stage import PACK
from tasks.train.stage import find_datasets
from tests.growing import (
    HOST,
    NIGHTS,
    Killed,
    MortalStore,
    configured,
    encoded,
    list_uids,
    put_night,
    run,
    run_night,
    web,
)
from tests.inline_executor import inline_context

__all__ = ["web"]  # a fixture
pytestmark = pytest.mark.timeout(300)


def reference(nights):
    """Return the uids that stay, and the paths that are asked for each night: compare each image with all before."""
    asked, kept, images, paths = set(), set(), [], []
    for night in nights:
        new = list({url: (url, caption) for url, caption in night if url not in asked}.values())
        asked |= {url for url, _ in new}
        paths.append(sorted(url.partition(HOST)[2] for url, _ in new))
        tonight = []
        for url, caption in new:
            if "gone" in url:
                continue
            data = encoded(url.partition(HOST)[2])
            print_ = fingerprint(decode.decode_pixels(data))
            if any(data == other or close(print_, before) for other, before in images):
                continue
            tonight.append((uid(url, caption), data, print_, caption))
        better = [  # of two of one night the longer caption stays
            one
            for one in tonight
            if not any(close(one[2], other[2]) and len(other[3]) > len(one[3]) for other in tonight)
        ]
        kept |= {one[0] for one in better}
        images += [one[1:3] for one in better]
    return kept, paths


def close(one, other):
    cells = [np.frombuffer(print_.thumbnail, np.uint8).astype(int) for print_ in (one, other)]
    return (one.phash ^ other.phash).bit_count() <= 6 and int(np.abs(cells[0] - cells[1]).max()) <= 16


@pytest.fixture(scope="module")
def grown(web, tmp_path_factory):
    """Run each night; return the folder, and of each night its version and the paths of the images that were requested."""
    folder, found = tmp_path_factory.mktemp("grown"), []
    for number in range(1, len(NIGHTS) + 1):
        web.log.clear()
        version, _ = run_night(web, folder, number)
        found.append((version, sorted(path for _, _, path in web.log if path[1:2].isdigit())))
        shutil.copytree(folder, folder.with_name(f"after-night-{number}"))
    return folder, found


@pytest.fixture
def after_night(grown, tmp_path):
    """Return a function that makes the test's folder a copy of that after a night, and returns the night's version."""

    def copy(number):
        shutil.copytree(grown[0].with_name(f"after-night-{number}"), tmp_path, dirs_exist_ok=True)
        [version] = list_newest(FolderStore(tmp_path / "store"))
        return version

    return copy


def test_each_night_asks_for_new_images_only_and_the_union_is_that_of_the_reference(grown):
    folder, nights = grown
    kept, asked = reference(NIGHTS)
    assert [paths for _, paths in nights] == asked
    store = FolderStore(folder / "store")
    [newest] = list_newest(store)
    assert newest == nights[-1][0]
    assert list_uids(store, find_packs(store, newest)) == kept
    assert newest.pairs == len(kept)
    assert [len(version.packs) for version, _ in nights] == [1, 2, 3, 3, 4]
    assert [version.repeated for version, _ in nights[1:4]] == [4, 4, 4]


def test_a_night_without_a_new_file_makes_nothing(grown, web):
    folder, _ = grown
    web.log.clear()
    before = FolderStore(folder / "store").names("")
    assert run(configured(web, folder), folder) == (None, {})
    assert FolderStore(folder / "store").names("") == before
    assert not web.log


def test_tables_are_few_and_earlier_versions_stay(grown):
    folder, nights = grown
    store = FolderStore(folder / "store")
    for version, _ in nights:
        assert version == load_version(store, version.line, version.number)
        for kind in ("files", "urls", "images", "places"):
            spans = [(table.first, table.last) for table in version.tables_of(kind)]
            assert len(spans) <= version.number.bit_count() + 1, (kind, spans)
    files = nights[-1][0].tables_of("files")
    assert sum(table.rows for table in files) == len(NIGHTS)


def test_a_training_reads_all_versions(grown, web):
    folder, nights = grown
    store = FolderStore(folder / "store")
    last = nights[-1][0]
    config = configured(web, folder, grow={"base": last.number - 1})
    own = find_packs(store, last)[-1]
    found = find_datasets(config.stage_config("train"), own, store)
    assert {manifest.key for manifest in found} == {pack.key for pack in last.packs}


def add_version(config, folder):
    version, _ = run(config, folder)
    assert version is not None
    return version


def contents(folder):
    """Return all versions and tables, without the times."""
    store = FolderStore(folder / "store")
    found = {name: store.read(name) for name in store.names("grown") if not name.endswith(".json")}
    [newest] = list_newest(store)
    return found | {str(n): load_version(store, newest.line, n).digest.encode() for n in range(1, newest.number + 1)}


@pytest.mark.parametrize(("seed", "writes", "least"), [(0, 20, 20), (1, 60, 1), (2, 60, 1), (3, 60, 1)])
def test_a_kill_at_any_write_of_a_night_changes_nothing(seed, writes, least, web, tmp_path, grown):
    """A night writes more than 20 times: with that limit it is killed again and again."""
    random, kills = Random(seed), 0
    for number, night in enumerate(NIGHTS[:3], 1):
        put_night(tmp_path, number, night)
        config = configured(web, tmp_path).with_recorded_base()
        while True:
            store = MortalStore(tmp_path / "store", random.randrange(writes))
            try:
                run(config, tmp_path, store)
                break
            except Killed:
                kills += 1
    assert kills >= least
    [newest] = list_newest(FolderStore(tmp_path / "store"))
    expected = {name: data for name, data in contents(grown[0]).items() if name in contents(tmp_path)}
    assert newest.number == 3
    assert newest.digest == grown[1][2][0].digest
    assert {name: expected[name] for name in ("1", "2", "3")} == {n: contents(tmp_path)[n] for n in ("1", "2", "3")}


def test_of_two_nights_at_the_same_time_one_is_refused(web, tmp_path, after_night):
    after_night(1)
    first, second = configured(web, tmp_path), configured(web, tmp_path)
    assert first.base == second.base
    put_night(tmp_path, 2, NIGHTS[1])
    made, store = add_version(first, tmp_path), FolderStore(tmp_path / "store")
    put_night(tmp_path, 3, NIGHTS[2])
    with pytest.raises(ContractError, match="has made version 2 of nights-"):
        run(second, tmp_path)
    again = add_version(configured(web, tmp_path), tmp_path)
    assert (again.number, again.packs[:2]) == (3, made.packs)
    assert list_uids(store, find_packs(store, again)) == reference(NIGHTS[:3])[0]


def test_a_line_begins_anew_from_an_earlier_version_and_goes_on(web, tmp_path, after_night):
    store = FolderStore(tmp_path / "store")
    after_night(2)
    anew = add_version(configured(web, tmp_path, grow={"base": 0}), tmp_path)
    assert (anew.number, len(anew.packs)) == (3, 1)
    again = add_version(configured(web, tmp_path, grow={"base": 1}), tmp_path)
    assert (again.number, list_uids(store, find_packs(store, again))) == (4, reference(NIGHTS[:2])[0])
    after, _ = run_night(web, tmp_path, 3)
    assert (after.number, list_uids(store, find_packs(store, after))) == (5, reference(NIGHTS[:3])[0])


def test_what_is_listed_but_lost_or_broken_is_one_error_that_names_it(web, tmp_path, after_night):
    store, made = FolderStore(tmp_path / "store"), after_night(1)
    put_night(tmp_path, 2, NIGHTS[1])
    for table in made.tables:
        data, error, remedy = store.read(table.name), CorruptPart, r" is missing or damaged; .*grow\.base=0"
        if table.kind == "thumbnails":  # of which single rows are read
            error, remedy = PairmillError, ""
        for broken in (None, data[: len(data) // 2 if remedy else 1]):
            if broken is None:
                store.delete([table.name])
            else:
                store.put(table.name, broken)
            with pytest.raises(error, match=table.name + remedy):
                run(configured(web, tmp_path), tmp_path)
            store.put(table.name, data)
    again = add_version(configured(web, tmp_path), tmp_path)
    assert list_uids(store, find_packs(store, again)) == reference(NIGHTS[:2])[0]
    store.delete([f"pack/{made.packs[0].key}/manifest.json"])
    with pytest.raises(ContractError, match=f"pack/{made.packs[0].key}, which version 2"):
        find_packs(store, again)


def test_other_objects_among_the_versions_are_ignored(tmp_path, after_night):
    store, made = FolderStore(tmp_path / "store"), after_night(1)
    for name in ("grown/notes.txt", f"grown/{made.line}/version-x.json", f"grown/{made.line}/old/version-000009.json"):
        store.put(name, b"not ours")
    assert list_newest(store) == [made]
    assert find_newest(store, made.line) == made


def test_other_settings_begin_another_line(web, tmp_path, after_night):
    after_night(1)
    for number, settings in (
        (1, {}),
        (1, {"download": {"host_concurrency": 2}}),  # no row depends on it
        (0, {"filter": {"min_words": 2}}),
        (0, {"grow": {"base": 0}}),
    ):
        base = configured(web, tmp_path, **settings).base
        assert base is not None
        assert base.number == number, settings


def test_what_compares_all_pairs_is_refused():
    datasets = [{"weight": 1}, {"key": "0" * 16, "weight": 1}]
    source = {"kind": "warc", "paths": ["x.warc"]}
    config, problems = validate_values({"name": "x", "source": source, "grow": {}, "train": {"dataset": datasets}})
    assert config is None
    assert "grow" in problems[0]


def read_samples_of(store, packs):
    found = {}
    for pack in packs:
        for shard in pack.named("", ".tar"):
            with store.open(pack.path(shard.name)) as file:
                for key, members in read_samples(file, shard.name):
                    assert key not in found
                    found[key] = {name: data for name, data in members.items() if name != "json"}
    return found


def test_small_packs_become_one_with_the_same_samples_also_after_kills(web, tmp_path, after_night):
    store, made = FolderStore(tmp_path / "store"), None
    grown, config = after_night(3), configured(web, tmp_path)
    before = read_samples_of(store, find_packs(store, grown))

    def compacted(to, limit):
        context = inline_context(to, tmp_path)
        return compact(context, grown, config.stage_config("pack"), config.seed, limit)

    assert compacted(store, 4) is None
    lives = 0
    while made is None:
        with suppress(Killed):
            made = compacted(MortalStore(tmp_path / "store", lives), 3)
        lives += 1
    assert lives > 5
    assert (made.number, made.base, len(made.packs), made.pairs) == (4, 3, 1, grown.pairs)
    assert made.tables == grown.tables
    assert read_samples_of(store, find_packs(store, made)) == before
    assert compacted(store, 3) == made, "it is made once"
    assert read_samples_of(store, find_packs(store, grown)) == before, "the version before stays readable"
    [merged] = find_packs(store, made)
    order, _ = shuffle_keys(read_parts(store, merged, "part-", ["uid"])["uid"].to_pylist(), config.seed)
    assert order.tolist() == sorted(order.tolist()), "one order over all nights"
    after, _ = run_night(web, tmp_path, 5)
    assert list_uids(store, find_packs(store, after)) == reference([*NIGHTS[:3], NIGHTS[4]])[0]
    own = find_packs(store, after)[-1]
    read = find_datasets(configured(web, tmp_path, grow={"base": 4}).stage_config("train"), own, store)
    assert {manifest.key for manifest in read} == {merged.key, own.key}


def test_a_pair_of_a_compacted_dataset_is_taken_down(web, tmp_path, after_night):
    store = FolderStore(tmp_path / "store")
    grown, config = after_night(3), configured(web, tmp_path)
    context = inline_context(store, tmp_path)
    first = compact(context, grown, config.stage_config("pack"), config.seed, 2)
    assert first is not None
    [merged], url = find_packs(store, first), NIGHTS[1][0][0]
    record_request(store, make_request([Target("url", url)], "the owner asks"))
    sources = [load_manifest(store, one.stage, one.key) for one in merged.inputs if one.stage in ("curate", "download")]
    planned = plan(PACK, config.stage_config("pack"), config.seed, [one for one in sources if one], store)
    assert planned.key != merged.key
    successor = make(planned, context)
    gone = {uid(*NIGHTS[1][0])}
    assert list_uids(store, [successor]) == list_uids(store, [merged]) - gone
    assert set(read_samples_of(store, [successor])) == set(read_samples_of(store, [merged])) - gone


def test_a_first_night_without_a_row_is_an_error(web, tmp_path):
    with pytest.raises(NothingLeft):
        run_night(web, tmp_path, 1, [])
    assert find_newest(FolderStore(tmp_path / "store"), configured(web, tmp_path).line).number == 0
