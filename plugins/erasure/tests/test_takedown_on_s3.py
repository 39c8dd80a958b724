"""A takedown on a real S3 server that is killed between a new manifest and the deletion of the old shards."""

import re

import pytest

from dataops.storage.s3 import S3Store
from dataops.store import FolderStore
from plugins.erasure.tests.homes import REMOVED, KilledError, take_down
from tests.unit.tasks.dataset_chain import jpeg, pair

pytestmark = pytest.mark.timeout(300)


class KilledStore(S3Store):
    """A store whose user is killed before the first old shard of a raw snapshot is deleted."""

    def delete(self, names):
        if any(re.fullmatch(r"download/[^/]+/\d+\.tar", name) for name in names):
            raise KilledError
        super().delete(names)


def test_takedown_killed_before_the_deletion_on_s3_is_completed_by_the_next_call(
    s3_environment,
    copy_home,
    tmp_path,
    monkeypatch,
    capsys,
    read_json,
):
    home, prefix = copy_home("s3"), f"takedown/{tmp_path.name}"
    source, store = FolderStore(home / "store"), S3Store("mill", prefix)
    for name in source.names(""):
        store.put(name, source.read(name))
    store.local(next(name for name in store.names("download") if name.endswith("00001.tar")))  # into the cache
    with pytest.raises(KilledError):
        take_down(home, KilledStore("mill", prefix), monkeypatch)
    capsys.readouterr()
    assert any(jpeg(n) in store.read(name) for name in store.names("download") for n in REMOVED)
    assert take_down(home, store, monkeypatch) == 0
    (report,) = read_json()["stores"]
    assert report["search"]["found"] == []
    assert report["search"]["searched"][0]["files"] > 20
    objects = {name: store.read(name) for name in store.names("") if not name.startswith("takedowns/")}
    cached = {str(path): path.read_bytes() for path in (home / "cache").rglob("*.tar")}
    left = [jpeg(n) for n in REMOVED] + [pair(n)["url"].encode() + b'"' for n in REMOVED]
    assert [name for name, data in (objects | cached).items() if any(one in data for one in left)] == []
