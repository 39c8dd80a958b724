"""The gate of `pairmill publish`, its dry run, and a folder as the place."""

from pathlib import Path

import pytest

from dataops.errors import ConfigError, ContractError
from dataops.trace.requests import make_request, record_request
from dataops.trace.targets import Target
from flows.records import RunRecord
from plugins.publish.gate import check_takedowns
from plugins.publish.places import StorePlace
from plugins.publish.publications import Publication, list_publications, record_publication
from plugins.publish.publish import command
from tasks.checks.check import CheckReport, CheckResult
from tests.unit.tasks.dataset_chain import packed_in, pair

LICENSE = "http://creativecommons.org/licenses/by/4.0/"


def run(tmp_path, what, to, **options):
    return command(what, to=to, **options, store=str(tmp_path / "store"), json=True)


def test_pairs_without_a_licence_need_a_stated_one(tmp_path, capsys, read_json):
    _, manifests = packed_in(tmp_path / "store", [pair(n) for n in range(4)])
    key, out = manifests["pack"].key, tmp_path / "out"
    with pytest.raises(ContractError, match="licence: 2 of 4 pairs have no licence; add --license NAME") as refused:
        run(tmp_path, key, str(out))
    assert refused.value.exit_code == 3
    assert run(tmp_path, key, str(out), dry_run=True) == 3
    assert not out.exists()
    capsys.readouterr()
    assert run(tmp_path, key, str(out), license="ODC-By", dry_run=True) == 0
    report = read_json()
    assert (report["license"], report["dry_run"], report["gate"][0]["is_met"]) == ("ODC-By", True, True)
    assert report["bytes_to_send"] == report["bytes"] == sum(file["bytes"] for file in report["files"])
    assert not out.exists()
    Path("file").touch()
    for place in ("/proc/nope", "file/x"):
        with pytest.raises(ConfigError, match=f"cannot write .*{place}.*; name another place with --to"):
            run(tmp_path, key, place, license="ODC-By")
    assert run(tmp_path, key, str(out), license="ODC-By") == 0
    assert "license: odc-by" in (out / "README.md").read_text("utf-8")
    assert {path.name for path in out.iterdir()} == {file["name"] for file in report["files"]}


def test_blocked_dataset_and_recorded_takedown_are_refused(tmp_path):
    pairs = [pair(n, license=LICENSE) for n in range(3)]
    store, manifests = packed_in(tmp_path / "store", pairs)
    key = manifests["pack"].key
    failed = CheckResult(
        check="min_rows", level="block", state="failed", figure=3, bound=10, text="3 rows; at least 10"
    )
    report = CheckReport(dataset=key, last=None, last_run=None, results=[failed])
    record = RunRecord(run_id="r-20260101T000000-abcd", name="r", created_at="2026-01-01", config={}, checks=report)
    store.put(f"runs/{record.run_id}.json", record.model_dump_json().encode())
    record_request(store, make_request([Target("uid", pairs[1]["uid"])], ""))
    with pytest.raises(ContractError) as refused:
        run(tmp_path, key, str(tmp_path / "out"))
    lines = str(refused.value).splitlines()
    assert lines[0] == f"pack/{key} is not published:"
    assert lines[1] == "  checks: min_rows: 3 rows; at least 10"
    assert lines[2].startswith(f"  takedowns: 1 pair in part-00000.parquet of dataset {key} match a recorded takedown")
    assert list_publications(store) == []


def test_takedown_during_the_preparation_of_a_publication_refuses_it(tmp_path, monkeypatch):
    pairs = [pair(n, license=LICENSE) for n in range(3)]
    store, manifests = packed_in(tmp_path / "store", pairs)
    compare = StorePlace.find_present

    def compare_slowly(*arguments):
        record_request(store, make_request([Target("uid", pairs[1]["uid"])], ""))
        return compare(*arguments)

    monkeypatch.setattr(StorePlace, "find_present", compare_slowly)
    with pytest.raises(ContractError, match="match a recorded takedown"):
        run(tmp_path, manifests["pack"].key, str(tmp_path / "out"))
    assert list_publications(store) == []
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("license", [" ", "\t\n"])
def test_blank_licence_is_none(tmp_path, license):
    _, manifests = packed_in(tmp_path / "store", [pair(0)])
    with pytest.raises(ContractError, match="licence: 1 of 1 pair have no licence"):
        run(tmp_path, manifests["pack"].key, str(tmp_path / "out"), license=license)


def test_licence_of_several_lines_and_a_place_in_the_store_are_refused(tmp_path):
    _, manifests = packed_in(tmp_path / "store", [pair(1)])
    key, inside = manifests["pack"].key, tmp_path / "store" / "new" / "place"
    with pytest.raises(ConfigError, match=r"--license .* has a line break or another control character"):
        run(tmp_path, key, str(tmp_path / "out"), license="mit\nlicense_link: x")
    (tmp_path / "link").symlink_to(tmp_path / "store")
    for place in (inside, tmp_path / "store", tmp_path / "store-2/../store/a", tmp_path / "link" / "a"):
        with pytest.raises(ConfigError, match=r"lies in the store .*; name a place outside it"):
            run(tmp_path, key, str(place), license="mit")
    assert not inside.exists()
    assert run(tmp_path, key, str(tmp_path / "store-2"), license="mit") == 0


def test_gate_names_the_datasets_that_it_cannot_search(tmp_path):
    store, manifests = packed_in(tmp_path / "store", [pair(1)])
    found = check_takedowns([store], [manifests["pack"].key, "0" * 16], is_model=True)
    assert (found.is_met, found.text.partition("; ")[2]) == (
        True,
        f"not searched, since no store has its pack: {'0' * 16}",
    )


@pytest.mark.parametrize("kind", [None, "model"], ids=["third-party", "of a model"])
def test_place_with_other_data_is_refused(tmp_path, kind):
    store, manifests = packed_in(tmp_path / "store", [pair(n, license=LICENSE) for n in range(3)])
    place = tmp_path / "out"
    place.mkdir()
    (place / "theirs.tar").write_bytes(b"x")
    (place / "a\nb.tar").write_bytes(b"x")
    files = [{"name": "theirs.tar", "bytes": 1, "sha256": ""}]
    fields = {"target": str(place), "kind": kind, "name": "m", "datasets": [], "license": "mit", "is_public": False}
    if kind:
        record_publication(store, Publication(**fields, state="complete", began_at="2026-01-01", files=files))
    wanted = r"has data that pairmill did not publish as a dataset: a\nb\.tar, theirs\.tar; name an empty place"
    with pytest.raises(ConfigError, match=wanted):
        run(tmp_path, manifests["pack"].key, str(place))
    assert (place / "theirs.tar").exists()


def test_half_files_of_a_killed_publication_are_deleted_and_no_others(tmp_path):
    _, manifests = packed_in(tmp_path / "store", [pair(n, license=LICENSE) for n in range(3)])
    place = tmp_path / "out"
    (place / ".tmp-theirs00").mkdir(parents=True)
    for name in (".tmp-ab_1cd23", ".tmp-notes"):
        (place / name).write_bytes(b"x")
    assert run(tmp_path, manifests["pack"].key, str(place)) == 0
    assert {path.name for path in place.glob(".*")} == {".tmp-theirs00", ".tmp-notes"}
