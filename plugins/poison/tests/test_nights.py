"""Nights of a growing dataset with a planted fault: its pairs are held, listed, and released into the next version."""

import pytest

from dataops.errors import ConfigError, ContractError
from dataops.schema import uid
from dataops.snapshot import read_parts, read_table
from dataops.store import FolderStore, open_store
from dataops.trace.requests import make_request, record_request
from dataops.trace.targets import Target
from flows.next_version import add_run
from plugins.poison import quarantine
from plugins.poison.config import POISON, STATE, PoisonFacts
from plugins.poison.history import History
from plugins.poison.quarantine import list_findings, list_pairs, load_releases, release_pairs
from tasks.checks.check import check_dataset
from tasks.growth.versions import find_newest, find_packs
from tasks.search import Rows, Search
from tests.growing import ANSWERS, HOST, configured, encoded, list_uids, put_night, run
from tests.inline_executor import inline_context
from tests.servers.hostile_web import served

pytestmark = pytest.mark.timeout(300)  # of a busy machine
SOLD = "sold.test"


def stop(*run):
    raise KeyboardInterrupt


def night(number, sold):
    """Return four drawings of HOST and some of SOLD, which no other night has."""
    names = [*range(100 * number, 100 * number + 4), *range(100 * number + 50, 100 * number + 50 + sold)]
    hosts = [HOST] * 4 + [SOLD] * sold
    return [
        (f"http://{host}/{n}.png", f"A drawing called {n} of a night") for host, n in zip(hosts, names, strict=True)
    ]


def test_a_domain_that_opted_out_is_held_when_it_flips_and_released(tmp_path, monkeypatch):
    opted = {"X-Robots-Tag": "noai"}

    def sell(handler):
        handler.respond((200, {"Content-Type": "image/png", **opted}, encoded(handler.path)))

    with served({**ANSWERS, SOLD: {**ANSWERS[HOST], "*": sell}}) as web:
        store = FolderStore(tmp_path / "store")
        context = inline_context(store, tmp_path)

        def run_night(number, rows):
            put_night(tmp_path, number, rows)
            config = configured(web, tmp_path, curate={"poison": {"levels": {"opt_out_flip": "block"}}})
            return *run(config, tmp_path), config

        for number in (1, 2, 3):
            version, manifests, _ = run_night(number, night(number, 2))
            assert not PoisonFacts.of(manifests["curate"]).findings
            assert manifests["download"].counts.dropped == {"opt_out": 2}
        opted.clear()
        rows = night(4, 3)
        version, manifests, config = run_night(4, rows)
        held = {uid(*row) for row in rows if SOLD in row[0]}
        curate = manifests["curate"]
        dropped = read_parts(store, curate, "dropped-", ["uid", "drop_reason", "drop_stage"]).to_pylist()
        assert {row["uid"] for row in dropped} == held
        assert {(row["drop_reason"], row["drop_stage"]) for row in dropped} == {("quarantined", "curate")}
        assert curate.counts.kept == 4
        report = check_dataset(config.checks, manifests)
        assert [one.check for one in report.failed if one.blocks] == ["max_poison"]

        [found] = list_findings(store, version)
        assert (found.finding, found.check, found.subject, {*found.uids}) == ("4.1", "opt_out_flip", SOLD, held)
        assert {row["url"] for row in list_pairs(store, found)} == {url for url, _ in rows if SOLD in url}
        hits = Search(store).find(Rows(curate, "dropped-"), [Target("domain", SOLD)])
        assert {row["uid"] for row in Search(store).rows(hits)} == held  # as `trace` and `takedown` search

        web.log.clear()
        one, taken, other = sorted(held)
        with pytest.raises(ConfigError, match=r"no finding 9\.9"):
            release_pairs(context, version, ["9.9"], [], "asked the owner")
        with pytest.raises(ConfigError, match="no pair"):
            release_pairs(context, version, ["4.1"], ["f" * 32], "asked the owner")
        before = list_uids(store, find_packs(store, version))
        for is_made in (False, True):  # killed before and after it makes the version
            add_and_stop = (add_run, stop) if is_made else (stop,)
            monkeypatch.setattr(quarantine, "add_run", lambda *run, calls=add_and_stop: [call(*run) for call in calls])
            with pytest.raises(KeyboardInterrupt):
                release_pairs(context, version, ["4.1"], [one], "asked the owner")
            first = find_newest(store, version.line)
            assert [one.version for one in load_releases(store, version.line)] == [first.name] * is_made
        assert (first.number, first.new) == (5, 1)
        monkeypatch.undo()
        record_request(store, make_request([Target("uid", taken)], "a letter"))
        [second] = release_pairs(context, version, ["4.1"], [], "asked the owner")
        assert list_uids(store, find_packs(store, second)) == before | {one, other}
        with pytest.raises(ContractError, match="all 1 were taken down"):
            release_pairs(context, version, ["4.1"], [], "again")
        assert not web.log  # nothing is requested
        assert [one.version for one in load_releases(store, version.line)] == [first.name, second.name]
        version, manifests, _ = run_night(5, night(5, 3))
        assert (version.base, version.number) == (6, 7)
        assert not manifests["curate"].counts.dropped
        assert version.pairs == second.pairs + 7
        [state] = find_newest(open_store(store.uri), version.line).tables_of(POISON.table)
        assert History.decode(read_table(store, state.name)).night == 5
        assert manifests["curate"].named(STATE)
