"""Pairs are removed from a dataset: only touched shards are rewritten, and no byte of the pairs is left."""

import csv
import json
import os
import shutil
from functools import partial
from types import SimpleNamespace

import pytest

from dataops.errors import ConfigError, ContractError, CorruptPart, StorageError
from dataops.snapshot import Counts, Draft, Input, find_manifest, read_parts
from dataops.store import FolderStore
from dataops.trace import requests as takedown_requests
from dataops.trace.targets import Target, image_targets
from plugins.erasure import command as flow
from plugins.erasure import next_versions as takedown
from plugins.erasure.command import explain_deletion
from plugins.erasure.next_versions import prove_removal
from plugins.erasure.target_files import read_targets
from tasks.engine.context import Context
from tasks.engine.stage import make, plan
from tasks.lineage.graph import Lineage
from tasks.pack.config import PackConfig
from tasks.pack.stage import PACK
from tasks.search import Search
from tasks.tracking import client as tracking
from tasks.tracking.registry import Registry
from tests.inline_executor import InlineExecutor, inline_context
from tests.manifests import build_manifest
from tests.unit.tasks.dataset_chain import chain, jpeg, pair


def curated(store, pairs, raw_size):
    manifests = chain(store, pairs, raw_size)
    return [manifests["curate"], manifests["download"]]


def some_pairs():
    hashes = {5: image_targets(jpeg(5))[1].value}
    return [
        pair(n, page_url=f"https://www.site{n % 5}.example/p/{n}", phash=hashes.get(n, f"{n:016x}")) for n in range(24)
    ]


@pytest.fixture
def store(tmp_path):
    return FolderStore(tmp_path / "store")


def packed(store, upstream):
    return make(plan(PACK, PackConfig(shard_size=4), 0, upstream, store), inline_context(store, store.root))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a store with a dataset of some pairs, its upstream, and the dataset."""
    store = FolderStore(tmp_path_factory.mktemp("made") / "store")
    upstream = curated(store, some_pairs(), 7)
    return store, upstream, packed(store, upstream)


@pytest.fixture
def dataset(made, store):
    """Return upstream and dataset in a copy of the store."""
    shutil.copytree(made[0].root, store.root)
    return made[1:]


def take_down(store, *targets):
    request = takedown_requests.make_request(targets, "a letter")
    lineage, registry = Lineage(store), Registry(query=False)
    takedown_requests.record_request(store, request)
    found = takedown.find_affected(lineage, Search(store), request, registry)
    return takedown.replace_affected(lineage, inline_context(store, store.root), request, found)


def read_bytes(store, manifest):
    return b"".join(store.read(manifest.path(part.name)) for part in manifest.parts)


TARGETS = {
    "url": (Target("url", "http://host1.example/4.jpg"), lambda row: row["url"] == "http://host1.example/4.jpg"),
    "page": (Target("url", "https://www.site2.example/p/7"), lambda row: row["page_url"].endswith("/p/7")),
    "domain": (Target("domain", "site3.example"), lambda row: ".site3.example/" in row["page_url"]),
    "sha256": (Target("sha256", f"{9:064x}"), lambda row: row["sha256"] == f"{9:064x}"),
    "phash": (image_targets(jpeg(5))[1], lambda row: row["sha256"] == f"{5:064x}"),
}


def test_takedown_of_a_further_caption_removes_its_sample(store):
    pairs, further = some_pairs(), []
    for n in (7, 12, 20):
        further.append({"uid": f"{n:032x}", "caption": f"another text {n}", "page_url": f"https://other{n}.example/a"})
        pairs[n]["captions"] = [further[-1]]
    pairs = [{"captions": None} | row for row in pairs]
    old = packed(store, curated(store, pairs, 7))
    assert read_bytes(store, old).count(b"another text") >= 3
    by = [Target("uid", further[0]["uid"]), Target("url", further[1]["page_url"]), Target("domain", "other20.example")]
    (outcome,) = take_down(store, *by)
    assert b"another text" not in read_bytes(store, outcome.successor)
    assert outcome.successor.counts == Counts(input=24, kept=21, dropped={"takedown": 3})


@pytest.mark.parametrize("kind", TARGETS)
def test_takedown_removes_all_bytes_and_rewrites_only_touched_shards(store, dataset, kind):
    target, matches = TARGETS[kind]
    pairs, (_, old) = some_pairs(), dataset
    removed = [row for row in pairs if matches(row)]
    (outcome,) = take_down(store, target)
    new = outcome.successor
    assert outcome.error == ""
    rows = read_parts(store, old).to_pylist()
    touched = {row["shard"] for row in rows if row["uid"] in {one["uid"] for one in removed}}
    assert removed
    assert len(touched) < 6
    assert set(outcome.rewritten) == {name for name in touched if name in {p.name for p in new.named("", ".tar")}}
    before = {part.name: part.sha256 for part in old.parts}
    for part in new.named("", ".tar") + new.named("", ".idx") + new.named("part-"):
        number = part.name.removeprefix("part-")[:5]
        assert (part.sha256 == before[part.name]) == (f"{number}.tar" not in touched)
    inodes = (
        [store.local(m.path("00000.tar")).stat().st_ino for m in (old, new)] if "00000.tar" not in touched else [0, 0]
    )
    assert inodes[0] == inodes[1], "linked, not copied"
    assert "No example of a dropped pair is shown" in store.read(new.path("dataset.html")).decode()
    data = read_bytes(store, new)
    for row in removed:
        assert row["data"] not in data
        assert row["caption"].encode() not in data
        assert row["url"].encode() not in data
    assert {row["uid"] for row in read_parts(store, new).to_pylist()} == {r["uid"] for r in pairs} - {
        r["uid"] for r in removed
    }
    assert new.counts == Counts(input=24, kept=24 - len(removed), dropped={"takedown": len(removed)})
    dropped = read_parts(store, new, "dropped-").to_pylist()
    assert [row["url"] for row in dropped] == [None] * len(removed)
    assert new.facts["parent"] == old.key
    assert [i.key for i in new.inputs if i.stage == "takedown"] == new.facts["takedowns"]


def test_takedown_without_matches_changes_nothing(store, dataset):
    upstream, old = dataset
    assert take_down(store, Target("domain", "elsewhere.example")) == []
    assert packed(store, upstream) == old
    store.delete_tree("takedowns/datasets")
    assert packed(store, upstream) == old, "it is searched again"
    (outcome,) = take_down(store, TARGETS["url"][0])
    assert packed(store, upstream).key == outcome.successor.key
    store.delete_tree("takedowns/datasets")
    assert packed(store, upstream).key == outcome.successor.key


def test_prove_removal_raises_when_a_row_is_left(store, dataset):
    _, old = dataset
    uids = [read_parts(store, old)["uid"][3].as_py()]
    with pytest.raises(ContractError, match="still has a row"):
        prove_removal(store, old, [TARGETS["url"][0]], [], {})
    with pytest.raises(ContractError, match="still has"):
        prove_removal(store, old, [], uids, {})
    with pytest.raises(ContractError, match="still has a row"):
        prove_removal(store, old, [], uids, {part.name: part.sha256 for part in old.parts})
    assert prove_removal(store, old, [], [], {})[1].startswith("24 samples")


def test_takedown_command_reports_and_deletes(store, dataset, tmp_path, capsys, read_json, monkeypatch):
    _, old = dataset
    monkeypatch.setattr(flow, "Context", partial(Context, pool=InlineExecutor()))
    file = tmp_path / "letter.txt"
    file.write_text(
        "# from a lawyer\nhttp://host1.example/%34.jpg  # one\n\nsite3.example\nhttp://host1.example/typo.jpg\n"
    )
    code = flow.command(file, reason="a letter", store=store.uri)
    output = capsys.readouterr().out
    assert code == 0
    assert f"dataset {old.key}: 6 pairs" in output
    assert "still has 6 of the images" in output
    unmatched = "url:http://host1.example/typo.jpg"
    assert f"No pair and no raw image here matches 1 of 3 targets; check them:\n  {unmatched}\n" in output
    with pytest.raises(ConfigError, match="add --yes"):
        flow.command(file, delete_raw=True, store=store.uri, json=True)
    code = flow.command(file, delete_raw=True, yes=True, store=store.uri, json=True)
    result = read_json()
    (report,) = [one for one in result["stores"] if one["datasets"]]
    assert code == 0
    assert report["deleted"]["datasets"] == [old.key]
    assert sum(report["deleted"]["raw_samples"].values()) == 6
    assert report["raw_snapshots"] == {}
    assert find_manifest(store, "pack", old.key) is None
    assert report["unmatched"] == [unmatched]
    assert flow.command(file, store=store.uri, json=True) == 0
    (again,) = [one for one in read_json()["stores"] if one["store"] == report["store"]]
    assert again["unmatched"] == [unmatched], "not also those whose pairs an earlier call deleted"
    (second,) = take_down(store, TARGETS["sha256"][0])
    assert (second.error, len(second.rewritten)) == ("", 1), (
        "the next version is made from the previous one, without raw shards"
    )
    store.put(f"takedowns/{again['request']['digest']}.report.json", b'{"datasets": 3}')
    with pytest.raises(CorruptPart, match="is not a report of a takedown; delete it"):
        flow.command(file, store=store.uri)


def test_takedown_beside_another_one_names_the_remedy(store, dataset):
    lineage = Lineage(store)
    assert lineage.manifests
    pack = dataset[-1]
    Draft(store, "pack", pack.key).clear(lambda _: False)
    with pytest.raises(StorageError, match="repeat the takedown after it"), explain_deletion(lineage):
        store.local(pack.path(pack.parts[0]))


def test_models_that_could_not_be_tagged_are_tagged_by_the_next_call(store, dataset, tmp_path, read_json, monkeypatch):
    _, old = dataset
    monkeypatch.setattr(flow, "Context", partial(Context, pool=InlineExecutor()))
    facts = {"model_name": "shop", "version": "1"}
    register = build_manifest("register", [], key="5" * 16, inputs=[old.as_input()], facts=facts)
    Draft(store, "register", register.key).commit(register)
    file = tmp_path / "letter.txt"
    file.write_text("http://host1.example/4.jpg\n")

    page = flow.services.home() / "services" / "mlflow" / "artifacts" / "1" / "filter.html"
    page.parent.mkdir(parents=True)
    page.write_text("http://host1.example/4.jpg")
    remedies = []

    def take_down_again(**options):
        code = flow.command(file, store=store.uri, json=True, **options)
        (report,) = [one for one in read_json()["stores"] if one["datasets"]]
        (found,) = report["datasets"]
        remedies.extend(one["remedy"] for one in report["search"].get("found", []))
        return code, found["dataset"], found["models_tagged"], list(found["models_not_tagged"])

    missed = (3, old.key, [], ["models:/shop/1"])
    assert take_down_again(delete_raw=True, yes=True) == missed
    assert ["pairmill up" in remedy for remedy in remedies] == [True]
    assert find_manifest(store, "pack", old.key) is None
    assert take_down_again() == missed, "no server is there yet"
    tags = {}
    client = SimpleNamespace(
        get_model_version=lambda name, version: SimpleNamespace(tags={"takedowns": "0" * 16}),
        set_model_version_tag=lambda name, version, key, value: tags.update({(name, version, key): value}),
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setattr(tracking, "connect", lambda: client)
    assert take_down_again() == (0, old.key, ["models:/shop/1"], [])
    digests = tags.pop(("shop", "1", "takedowns"))
    assert digests.startswith("0" * 16 + " ")
    ((key, text),) = tags.items()
    assert key == ("shop", "1", f"takedown.{digests.split()[1]}")
    assert text.startswith(f"1 pair of dataset {old.key}, on ")


def test_read_targets_names_every_wrong_line(tmp_path):
    file = tmp_path / "bad.txt"
    wrong = ["uid:12", "nonsense", "http://", "image:nowhere.jpg", "phash:0123456789abcdef~99", "jane@flickr.com"]
    file.write_text("\n".join(["example.org", *wrong]))
    with pytest.raises(ConfigError) as caught:
        read_targets(file)
    message = str(caught.value)
    assert "6 of 7 lines" in message
    assert [f":{n}:" in message for n in range(1, 8)] == [False, *[True] * 6]


def test_hostile_files_are_refused_at_once(tmp_path):
    (tmp_path / "wide.csv").write_text("kind,value\nurl," + "x" * (csv.field_size_limit() + 1))
    for name in ("pipe.txt", "pipe.csv"):
        os.mkfifo(tmp_path / name)
    for file in tmp_path.iterdir():
        with pytest.raises(ConfigError, match="cannot be read as a takedown request: "):
            read_targets(file)
    for data, remedy in (
        (b"kind;value\ndomain;example.org", "kind and value, separated by a comma"),
        ("kind,value\ndomain,bücher.example".encode("latin-1"), "in line 2; save the file in UTF-8"),
    ):
        (tmp_path / "sheet.csv").write_bytes(data)
        with pytest.raises(ConfigError, match=remedy):
            read_targets(tmp_path / "sheet.csv")


def test_read_targets_reads_the_same_from_txt_and_csv(tmp_path):
    (tmp_path / "picture.jpg").write_bytes(jpeg(5))
    texts = {
        "a.txt": "HTTP://Example.org:80/a.jpg\n*.Bücher.example # all\nimage:picture.jpg\n",
        "a.csv": "kind,value\nurl,http://example.org/a.jpg\n,bücher.example\nimage,picture.jpg\n",
    }
    read = []
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        read.append(read_targets(tmp_path / name))
    assert read[0] == read[1] == [
        Target("url", "http://example.org/a.jpg"), Target("domain", "xn--bcher-kva.example"), *image_targets(jpeg(5)),
    ]  # fmt: skip


def test_pack_raises_for_a_damaged_request(store, dataset):
    upstream, _ = dataset
    store.put(f"takedowns/{'a' * 16}.json", b'{"targets": ["domain:site3.example"], "requested_at": ""}')
    with pytest.raises(CorruptPart, match="has other targets"):
        packed(store, upstream)


def test_model_trained_on_a_version_that_was_replaced_and_deleted_has_seen_the_pairs_too(store, dataset):
    _, dataset = dataset
    report = {"versions": {"0" * 16: "1" * 16, "1" * 16: dataset.key, "2" * 16: "3" * 16}}
    store.put("takedowns/0000000000000000.report.json", json.dumps(report).encode())
    for number, key in enumerate(("0" * 16, "2" * 16)):
        inputs, digest = [Input(stage="pack", key=key, digest=f"{number}" * 64)], f"{number}" * 64
        train = build_manifest("train", [], key=f"{number}" * 16, inputs=inputs, content_digest=digest)
        Draft(store, "train", train.key).commit(train)
        facts = {"model_name": f"model{number}", "version": "1"}
        register = build_manifest("register", [], key=f"{number}" * 16, inputs=[train.as_input()], facts=facts)
        Draft(store, "register", register.key).commit(register)
    url = Target("url", "http://host1.example/4.jpg")
    request = takedown_requests.make_request([url], "")
    (found,) = takedown.find_affected(Lineage(store), Search(store), request, Registry(query=False))
    assert [model.uri for model in found.models] == ["models:/model0/1"]
