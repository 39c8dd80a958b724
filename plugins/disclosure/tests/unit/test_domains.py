"""Domains are ranked by the bytes that were fetched for the pairs of the dataset, and counted as its manifest counts."""

import pytest

from dataops.store import FolderStore
from plugins.disclosure.domains import Domain, Fetched, measure
from plugins.disclosure.subject import describe_dataset
from plugins.disclosure.tests.unit.made_model import make_model, pair


def fetched(folder, pairs, **more):
    store = FolderStore(folder)
    return measure(describe_dataset(make_model(store, pairs, **more)["pack"], store).chains, store)


def test_hosts_of_one_registrable_domain_are_summed_and_the_largest_is_first(tmp_path):
    hosts = ("a.small.example.co.uk", "b.small.example.co.uk", "me.github.io", "you.github.io", "IMG.big.com", "[::1]")
    found = fetched(tmp_path, [pair(n, hosts[n % 6], 10 + n % 6 * 10) for n in range(13)])
    by_name = {one.name: (one.images, one.bytes) for one in found.domains}
    assert by_name == {
        "example.co.uk": (5, 70),
        "me.github.io": (2, 60),
        "you.github.io": (2, 80),
        "big.com": (2, 100),
        "[::1]": (2, 120),
    }
    assert [one.name for one in found.domains] == [
        "[::1]",
        "big.com",
        "you.github.io",
        "example.co.uk",
        "me.github.io",
    ]
    assert (found.images, found.archived, found.unsized) == (13, 0, 0)
    assert (found.first[:10], found.last[:10]) == ("2026-01-02", "2026-03-02")
    assert found.types == {"image/png": 13}


@pytest.mark.parametrize(
    ("number", "top", "of_sme"), [(1, 1, 1), (10, 1, 1), (11, 2, 1), (30, 3, 2), (40_000, 4000, 1000)]
)
def test_the_top_share_is_rounded_up_and_limited_for_small_enterprises(number, top, of_sme):
    found = Fetched([Domain(str(n), 1, 1) for n in range(number)])
    assert len(found.select_top(is_sme=False)) == top
    assert len(found.select_top(is_sme=True)) == of_sme


def test_removed_pairs_repeated_urls_and_archived_images_are_not_counted(tmp_path):
    pairs = [pair(n, "a.test", 100) for n in range(6)]
    pairs += [{**pairs[0], "uid": f"{n:032x}", "caption": str(n)} for n in range(3)]  # of one URL, in other parts
    pairs += [pair(20, "gone.test", 999), pair(21, "archive.test", 7, archive="x.warc.gz")]
    removed = [pairs[-2]["uid"]]
    found = fetched(tmp_path, pairs, taken_down=removed, configs={"filter": {"dedupe": ["uid", "pair"]}})
    assert found.domains == [Domain("a.test", 9, 600)]
    assert (found.images, found.archived) == (9, 1)
