"""A takedown erases the fingerprints and thumbnails that a dataset that grows keeps of its pairs."""

import pytest

from dataops.schema import uid
from dataops.snapshot import read_parts
from dataops.store import FolderStore
from plugins.erasure.erase_rows import erase_rows
from plugins.erasure.grown_tables import GROWN
from tasks.curate.inspect_images import THUMBNAILS
from tasks.engine.context import Context
from tasks.growth.tables import ERASED, read_table
from tasks.growth.versions import list_newest
from tasks.lineage.graph import Lineage
from tasks.takedown.holders import Scope, Traces
from tests.growing import ANSWERS, HOST, NIGHTS, configured, put_night, run
from tests.servers.hostile_web import served

pytestmark = pytest.mark.timeout(300)


def test_removed_pair_leaves_hashes_and_zeros_and_is_not_asked_for_again(tmp_path):
    pytest.importorskip("plugins.textdedup")
    captions = {"filter": {"near_captions": {"threshold": 1}}}
    with served(ANSWERS) as web:
        for number, night in enumerate(NIGHTS[:2], 1):
            put_night(tmp_path, number, night)
            run(configured(web, tmp_path, **captions), tmp_path)
        store = FolderStore(tmp_path / "store")
        [before] = list_newest(store)
        url, caption = NIGHTS[0][2]
        removed = uid(url, caption)
        context = Context(store=store, home=tmp_path / "home")
        scope = Scope(context, tmp_path / "home", [store])
        tables = before.tables_of("thumbnails")
        thumbnails = {table.name: store.read(table.name) for table in tables}
        first, second = (GROWN.erase(Traces(uids={removed}), scope) for _ in range(2))
        assert not first.refused | second.refused
        assert (first.objects > 0, second.objects) == (True, 0)
        [changed] = [table for table in tables if store.read(table.name) != thumbnails[table.name]]
        data, size = store.read(changed.name), changed.bytes // changed.rows
        assert [data[row * size : (row + 1) * size] for row in range(changed.rows)].count(bytes(size)) == 1
        images = [read_table(store, table) for table in before.tables_of("images")]
        assert sum((table["scope"].to_numpy() == ERASED).sum() for table in images) == 1
        tables = [read_table(store, table) for table in before.tables_of("near_captions")]
        kept = [text for table in tables for text in table["caption"].to_pylist()]
        assert (kept.count(""), caption in kept, len(kept)) == (1, False, before.pairs)

        _, refused = erase_rows(Lineage(store), context, Traces(uids={removed}))
        assert not refused
        for manifest in Lineage(store).manifests.values():
            rows = read_parts(store, manifest, THUMBNAILS).to_pylist() if manifest.stage == "curate" else []
            assert all((row["thumbnail"] is None) == (row["uid"] == removed) for row in rows)

        put_night(tmp_path, 3, [NIGHTS[0][2], NIGHTS[0][3], *NIGHTS[2]])
        web.log.clear()
        after, _ = run(configured(web, tmp_path, **captions), tmp_path)
        assert url.partition(HOST)[2] not in {path for _, _, path in web.log}
        assert after.number == 3
