"""A takedown erases reports, caches and rows in the store and under the home folder, and finds what it cannot erase."""

import base64
import hashlib
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataops.digest import file_sha256
from dataops.facts import FilterFacts
from dataops.images.decode import decode, make_preview
from dataops.plugins import load
from dataops.snapshot import Draft, Record, SnapshotName, find_manifest, load_manifest, read_parts
from dataops.storage import cached_files
from dataops.storage.cached_files import hold
from dataops.store import FolderStore
from dataops.trace.requests import load_erased, make_request, record_request
from dataops.trace.targets import Target, image_targets
from plugins.erasure.batches import Place
from plugins.erasure.collect import collect_traces
from plugins.erasure.erase_rows import erase_rows
from plugins.erasure.raw_images import delete_raw, find_raw_snapshots
from plugins.erasure.tests.homes import REMOVED, find_images, take_down
from plugins.erasure.traces import put_traces, traces_name
from tasks.curate.score import SCORES, compute_score_ids, put_scores
from tasks.engine.context import Context
from tasks.extract.source_index import SOURCE_INDEX, copy_indexed_parts, write_entry
from tasks.lineage.graph import Lineage
from tasks.search import Search
from tasks.takedown.holders import Traces
from tests.inline_executor import PicklingExecutor
from tests.manifests import build_manifest
from tests.unit.tasks.dataset_chain import chain, jpeg, pair

CAPTION, URL = "caption no. 4", pair(4)["url"]
PREVIEW = base64.b64encode(make_preview(decode(jpeg(4)))).decode()
VOCABULARY = json.dumps({"model": {"vocab": {CAPTION: 7}}}).encode()
PAGE = f'<p title="{URL}">{CAPTION}</p><img src="data:image/jpeg;base64,{PREVIEW}"><p>caption no. 5</p>'


def put_elsewhere(home):
    """Write what earlier runs and commands left of a pair; return the paths, and whether each file stays."""
    store = FolderStore(home / "store")
    draft = Draft(store, "evaluate", "e" * 16)
    page = draft.put_bytes("evaluation.html", PAGE.encode())
    draft.commit(build_manifest("evaluate", [page], key=draft.key))
    other = Draft(store, "filter", "e" * 16)
    other.commit(build_manifest("filter", key=other.key, facts={"examples": {"x": [CAPTION, URL]}}))
    train = Draft(store, "train", "d" * 16)
    parts = [train.put_bytes("tokenizer.json", VOCABULARY), train.put_bytes("model.json", b"{}")]
    train.commit(build_manifest("train", parts, key=train.key))
    digest = hashlib.sha256(jpeg(4)).hexdigest()
    ids = compute_score_ids([digest, "0" * 64], None)
    put_scores(store, "clip", pa.table([ids, pa.array([0.5, 0.25], pa.float32())], schema=SCORES))
    store.put(f"captions/llava/{digest[:3]}/{digest}.json", b'{"text": "an answer"}')
    texts = {"pages/filter-0.html": False, "cache/bucket/x/part-0.html": False, "evaluations/0/report.html": True}
    for name in texts:
        (home / name).parent.mkdir(parents=True)
        (home / name).write_text(PAGE)
    (home / "notes.txt").write_text(PAGE)
    return texts


def test_takedown_erases_what_others_wrote_and_leaves_the_rest(copy_home, monkeypatch, read_json):
    home = copy_home("a")
    store, files = FolderStore(home / "store"), put_elsewhere(home)
    assert take_down(home, store, monkeypatch) == 0
    (report,) = read_json()["stores"]
    assert report["search"]["found"] == []
    assert {one["place"].split()[0] for one in report["search"]["searched"] if one["files"]} == {"store", "home"}
    assert {name: (home / name).exists() for name in files} == files
    cleaned = (home / "evaluations/0/report.html").read_text()
    assert len(cleaned) == len(PAGE)
    assert (PREVIEW in cleaned, URL in cleaned, "caption no. 5" in cleaned) == (False, False, True)
    assert find_manifest(store, "evaluate", "e" * 16, verify=True) is not None
    other = find_manifest(store, "filter", "e" * 16, verify=True)
    assert FilterFacts.of(other).examples["x"][1] == "-" * len(URL)
    train = find_manifest(store, "train", "d" * 16, verify=True)
    assert store.read(train.path("tokenizer.json")) == VOCABULARY, "a token of a model"
    if "scores" in load("holders"):
        (scores,) = store.names("scores")
        assert pq.read_table(home / "store" / scores)["score"].to_pylist() == [0.25]
    if "answers" in load("holders"):
        assert store.names("captions") == []
    assert (home / "notes.txt").read_text() == PAGE, "a file of the user"
    assert find_images(home) == {"notes.txt"}
    traces = json.loads(store.read(next(name for name in store.names("takedowns") if name.endswith(".traces.json"))))
    assert (traces["urls"], traces["captions"]) == ([], [])
    assert {target.value for target in load_erased(store)} >= {*report["uids"]}


def list_shards(store):
    return {
        part.sha256
        for one in Lineage(store).manifests.values()
        if one.stage == "pack"
        for part in one.named("", ".tar")
    }


def test_caches_in_which_no_search_finds_a_pair_are_deleted_unless_a_process_uses_them(
    copy_home, monkeypatch, read_json
):
    for owner in ("browse", "recipes", "towers"):
        pytest.importorskip(f"plugins.{owner}")
    home = copy_home("caches")
    store, before = FolderStore(home / "store"), list_shards(FolderStore(home / "store"))
    of_shards = {sha256: f"features/towers/images-{sha256[:16]}-{64 * 'a'}.npy" for sha256 in before}
    lost = {"browse/sessions/ended/spill.tmp", "features/towers/texts-0.npy"}
    used = {"browse/sessions/running/copy.tmp"}
    kept = {"features/of-an-evaluation.safetensors", "browse/models/0/model.safetensors", "models/0/model.json"}
    for name in {*of_shards.values(), *lost, *used, *kept}:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(b"1")
    assert all(hold((home / name).parent) for name in used)
    assert take_down(home, store, monkeypatch) == 3, "a process still uses copies"
    (report,) = read_json()["stores"]
    assert set(report["search"]["not_erased"]) == {str((home / name).parent) for name in used}
    after = list_shards(store)
    assert after & before
    assert before - after
    left = {
        path.relative_to(home).as_posix()
        for one in ("browse", "features", "models")
        for path in (home / one).rglob("*.*")
    }
    assert left == used | kept | {of_shards[sha256] for sha256 in after & before}
    for descriptor in cached_files._held.values():
        os.close(descriptor)
    assert take_down(home, store, monkeypatch) == 0
    assert not any((home / name).exists() for name in used)


def test_search_finds_a_copy_under_another_url_and_names_it(copy_home, monkeypatch, read_json):
    home = copy_home("copy")
    store = FolderStore(home / "store")
    (home / "request.txt").write_text(f"{pair(5)['url']}\n")
    store.put("evaluate/unlisted.jpg", jpeg(5))
    assert take_down(home, store, monkeypatch) == 3
    (report,) = read_json()["stores"]
    (found,) = report["search"]["found"]
    assert (found["name"], found["found"]) == ("evaluate/unlisted.jpg", {"image": 1})
    assert found["remedy"]
    store.delete(["evaluate/unlisted.jpg"])
    assert take_down(home, store, monkeypatch) == 0, "a later call has the digests of the image"


def test_rows_of_samples_stay_until_their_samples_are_deleted(copy_home):
    store = FolderStore(copy_home("rows") / "store")
    lineage = Lineage(store)
    uids = {pair(n, caption=f"caption no. {n}")["uid"] for n in REMOVED}
    erased, _ = erase_rows(lineage, Context(store, store.root), Traces(uids=uids))
    assert {name.partition("/")[0]: rows for name, rows in erased.items()} == {"curate": 3}
    after = Lineage(store)
    for stage in ("download", "pack"):
        (before,) = (m for m in lineage.manifests.values() if m.stage == stage)
        assert after.manifests[SnapshotName(stage, before.key)] == before


def test_workers_collect_and_erase_what_one_process_does_and_get_names_only(copy_home):
    found, targets = [], [Target("url", URL), Target("domain", "site3.example"), image_targets(jpeg(9))[1]]
    for name in ("alone", "workers"):
        home, pool = copy_home(name), PicklingExecutor()
        store = FolderStore(home / "store")
        request = make_request(targets, "")
        record_request(store, request)
        context = Context(store, home, pool=pool)
        place = Place(traces_name(request.digest), (request.digest,), 1) if name == "workers" else None
        traces, _ = collect_traces(Lineage(store), targets, context, Traces(), place)
        put_traces(traces, store, traces_name(request.digest))
        assert erase_rows(Lineage(store), context, traces, place)[1] == {}
        found.append((traces, {name: store.read(name) for name in store.names("curate") + store.names("extract")}))
        assert bool(pool.sizes) == (place is not None)
    assert len(found[0][0].uids) == len(REMOVED)
    assert found[0] == found[1]
    assert max(pool.sizes) < 1000, "no task has targets or traces"


def rows(**columns):
    return pa.table({"uid": ["a" * 32, "b" * 32], "url": ["http://h/a", "http://h/b"], **columns})


def test_requests_of_a_crawl_to_a_removed_image_are_erased(tmp_path):
    store = FolderStore(tmp_path)
    draft = Draft(store, "extract", "e" * 16)
    page = {"url": "http://h/", "outcome": "archived", "detail": None, "referrer": None, "sha256": "0" * 64}
    link = page | {"url": "http://h/a", "outcome": "not_html", "referrer": "http://h/"}
    redirect = page | {"url": "http://h/to-a", "outcome": "redirect", "detail": "http://h/a", "referrer": "http://h/"}
    parts = [draft.put_table("part-00000.parquet", rows(caption=["A", "B"]))]
    parts.append(draft.put_table("evidence-crawl.parquet", pa.Table.from_pylist([page, link, redirect])))
    draft.commit(build_manifest("extract", parts, key=draft.key))
    context = Context(store, tmp_path)
    traces, _ = collect_traces(Lineage(store), [Target("url", "http://h/a")], context, Traces(), None)
    assert (traces.uids, traces.captions) == ({"a" * 32}, {"A"})
    assert erase_rows(Lineage(store), context, traces) == ({f"extract/{draft.key}": 3}, {})
    after = find_manifest(store, "extract", draft.key, verify=True)
    erased = {"url": "", "detail": None, "referrer": None, "sha256": None}
    assert read_parts(store, after, "evidence-").to_pylist() == [page, link | erased, redirect | erased]
    assert erase_rows(Lineage(store), context, traces) == ({}, {})


def test_erased_rows_keep_the_counts_the_key_and_the_digest_of_a_snapshot(tmp_path):
    store = FolderStore(tmp_path)
    draft = Draft(store, "extract", "e" * 16)
    parts = [draft.put_table("part-00000.parquet", rows(caption=["A", "B"], source_offset=[1, 2]))]
    parts.append(draft.put_table("dropped-00000.parquet", rows(drop_reason=["x", "y"])))
    before = draft.commit(build_manifest("extract", parts, key=draft.key))
    write_entry(draft, f"{SOURCE_INDEX}/0.json", Record(task="t", parts=parts[:1]))
    for expected in ({"extract/" + "e" * 16: 2}, {}):
        assert erase_rows(Lineage(store), Context(store, tmp_path), Traces(uids={"a" * 32})) == (expected, {})
    after = find_manifest(store, "extract", draft.key, verify=True)
    assert (after.content_digest, after.counts) == (before.content_digest, before.counts)
    assert [part.uid_sum for part in after.parts] == [part.uid_sum for part in before.parts]
    assert after.facts["erased"] == 2
    tables = {part.name: pq.read_table(tmp_path / after.path(part.name)).to_pylist() for part in after.parts}
    assert tables["part-00000-r1.parquet"][0] == {"uid": "a" * 32, "url": "", "caption": "", "source_offset": 1}
    assert tables["part-00000-r1.parquet"][1]["url"] == "http://h/b"
    assert tables["dropped-00000-r1.parquet"][0] == {"uid": "a" * 32, "url": "", "drop_reason": "x"}
    assert len(store.names("extract/" + "e" * 16)) == 3, "the old parts are deleted"
    copied = copy_indexed_parts(Draft(store, "extract", "f" * 16), f"{SOURCE_INDEX}/0.json", 7)
    assert copied.parts[0].sha256 == file_sha256(tmp_path / "extract" / ("f" * 16) / "part-00007.parquet")
    erase_rows(Lineage(store), Context(store, tmp_path), Traces(uids={"b" * 32}))
    again = load_manifest(store, "extract", draft.key)
    assert [part.name for part in again.parts] == ["part-00000-r2.parquet", "dropped-00000-r2.parquet"]


def test_delete_raw_keeps_the_evidence_that_an_earlier_takedown_rewrote(tmp_path):
    store = FolderStore(tmp_path)
    pairs = [pair(n, "http_404" if n in (0, 1) else None, "download") for n in range(4)]
    download, context = chain(store, pairs, 7)["download"], Context(store, store.root)
    for erased, deleted in ((0, 2), (1, 3)):
        assert not erase_rows(Lineage(store), context, Traces(uids={pairs[erased]["uid"]}))[1]
        target = Target("uid", pairs[deleted]["uid"])
        (raw,) = find_raw_snapshots(Lineage(store), Search(store), [target])
        assert delete_raw(context, raw, [target]) == 1
        after = find_manifest(store, "download", download.key, verify=True)
        assert {row["uid"] for row in read_parts(store, after, "evidence-").to_pylist()} == {
            row["uid"] for row in pairs[:2]
        }
    objects = {name for name in store.names(f"download/{download.key}") if not name.endswith("manifest.json")}
    assert objects == {after.path(part.name) for part in after.parts}
