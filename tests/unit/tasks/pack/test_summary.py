"""A dataset's manifest counts the pairs without a value, however many other values there are."""

from tasks.pack.summary import LISTED, merge


def test_pairs_without_a_licence_are_counted_beside_many_more_frequent_licences() -> None:
    shard = {"licenses": {f"https://licences.example/{n}": 5 for n in range(LISTED + 3)} | {"": 2}}
    counted = merge([shard, shard])["licenses"]
    assert counted[""] == 4
    assert len(counted) == LISTED + 1
    assert merge([{"licenses": {"https://licences.example/1": 5}}])["licenses"] == {"https://licences.example/1": 5}
