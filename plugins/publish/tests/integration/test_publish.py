"""A dataset is published to a server with the Hub's protocol and to a folder: gate, resumption, records, takedown."""

import hashlib
import json
from functools import partial

import pytest

from dataops import plugins
from dataops.errors import ConfigError, ContractError
from dataops.store import open_store
from plugins.publish.hub import HubPlace
from plugins.publish.publications import Publication, PublishedFile, list_publications, record_publication
from plugins.publish.publish import command
from tests.servers.writable_hub import TOKEN
from tests.unit.tasks.dataset_chain import dropped_pairs, packed_in, pair

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the Hub's library causes it
LICENSE = "http://creativecommons.org/licenses/by/4.0/"
PAIRS = [pair(n, license=LICENSE) for n in range(12)]


@pytest.fixture
def made(tmp_path):
    store, manifests = packed_in(tmp_path / "store", [*PAIRS, *dropped_pairs()], shard_size=5)
    return store, manifests["pack"]


def run(tmp_path, capsys, what, to, **options):
    """Publish, and return the report with the exit code."""
    capsys.readouterr()
    code = command(what, to=to, **options, store=str(tmp_path / "store"), json=True)
    return {**json.loads(capsys.readouterr().out), "code": code}


def test_dataset_is_on_the_hub_private_complete_and_without_what_was_dropped(hub, made, tmp_path, capsys, caplog):
    store, pack = made
    report = run(tmp_path, capsys, pack.key, "hub:team/kites")
    files = hub.repositories["team/kites"]
    assert hub.private == {"team/kites": True}
    shards = {part.name: part.sha256 for part in pack.parts if part.name.endswith((".tar", ".idx", ".parquet"))}
    assert {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name in shards} == shards
    further = {document.file for document in plugins.load("documents").values()}
    assert files.keys() - shards.keys() == {"README.md", "DATASET.md", "manifest.json", *further}
    card = files["README.md"].decode()
    assert 'datasets.load_dataset("team/kites", split="train")' in card
    assert "license: cc-by-4.0" in card
    assert {json.loads(files[name])["creator"]["name"] for name in further} <= {"team"}
    (record,) = list_publications(store)
    assert (record.state, record.target, record.datasets) == ("complete", "hub:team/kites", (pack.key,))
    assert record.revision == report["revision"] == f"{len(hub.commits):040x}"
    assert {file.name for file in record.files} == files.keys()
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert TOKEN.encode() not in written
    assert TOKEN not in caplog.text + json.dumps(report)

    again = run(tmp_path, capsys, pack.key, "hub:team/kites")
    assert (again["bytes_to_send"], len(hub.commits)) == (0, 1)


def test_interrupted_publication_continues_without_a_second_upload(hub, made, tmp_path, capsys, monkeypatch):
    store, pack = made
    old = PublishedFile(name="old.tar", bytes=1, sha256="")
    fields = {"kind": "dataset", "license": "mit", "is_public": False, "began_at": "2026-01-01", "files": (old,)}
    earlier = Publication(target="hub:team/kites", name=f"pack/{pack.key}", datasets=("0",), state="complete", **fields)
    record_publication(store, earlier)
    hub.repositories["team/kites"], hub.private["team/kites"] = {"old.tar": b"x"}, True
    monkeypatch.setattr("plugins.publish.publish.HubPlace", partial(HubPlace, files_of_commit=3))
    refused = next(part.sha256 for part in pack.parts if part.name == "00002.tar")
    hub.failing.add(refused)
    with pytest.raises(ConfigError, match="hub:team/kites: BadRequestError"):
        run(tmp_path, capsys, pack.key, "hub:team/kites")
    [record] = list_publications(store)
    assert (record.state, set(record.datasets), record.files[-1]) == ("sending", {pack.key, "0"}, old)
    hub.failing.clear()
    sent = list(hub.uploads)
    report = run(tmp_path, capsys, pack.key, "hub:team/kites")
    assert len(sent) == 2
    assert len(set(hub.uploads)) == len(hub.uploads), "nothing was uploaded twice"
    assert {file["name"] for file in report["files"] if not file["sent"]} >= {"00000.tar", "00000.idx"}
    [record] = list_publications(store)
    assert (record.state, record.datasets) == ("complete", (pack.key,))
    assert "old.tar" in report["deleted"]
    assert {file.name for file in record.files} == hub.repositories["team/kites"].keys(), "old.tar is deleted"


def test_public_repository_needs_the_option_and_a_wrong_token_is_refused(hub, made, tmp_path, capsys, monkeypatch):
    _, pack = made
    run(tmp_path, capsys, pack.key, "hub:team/kites", public=True)
    assert hub.private == {"team/kites": False}
    with pytest.raises(ConfigError, match="is public; add --public"):
        run(tmp_path, capsys, pack.key, "hub:team/kites")
    monkeypatch.setenv("HF_TOKEN", "hf_" + "w" * 34)
    with pytest.raises(ConfigError, match="log in with `hf auth login`, or set HF_TOKEN") as refused:
        run(tmp_path, capsys, pack.key, "hub:team/other")
    assert "w" * 34 not in str(refused.value)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_takedown_names_each_place_and_the_next_version_replaces_the_files(hub, made, tmp_path, capsys, read_json):
    import datasets

    erasure = pytest.importorskip("plugins.erasure.command")
    _, pack = made
    folder = tmp_path / "out"
    for target in ("hub:team/kites", str(folder)):
        run(tmp_path, capsys, pack.key, target)
    request = tmp_path / "request.txt"
    request.write_text("\n".join(row["uid"] for row in PAIRS[:11]))
    erasure.command(request, store=str(tmp_path / "store"), json=True)
    report = read_json()["stores"][0]
    successor = report["datasets"][0]["next"]
    remedies = {one["target"]: one["remedy"] for one in report["published"]}
    assert remedies.keys() == {"hub:team/kites", str(folder)}
    assert all(f"pairmill publish {successor} --to {target}" in text for target, text in remedies.items())
    assert "history" in remedies["hub:team/kites"]
    with pytest.raises(ContractError, match=f"its next version is {successor}; publish the next version"):
        run(tmp_path, capsys, pack.key, str(folder))

    for target in ("hub:team/kites", str(folder)):
        assert run(tmp_path, capsys, successor, target)["deleted"] != []
    assert hub.repositories["team/kites"].keys() == {path.name for path in folder.iterdir()}
    data = b"".join([*hub.repositories["team/kites"].values(), *(path.read_bytes() for path in folder.iterdir())])
    assert not [row["uid"] for row in PAIRS[:11] if row["uid"].encode() in data]
    options = {"split": "train", "cache_dir": str(tmp_path / "cache"), "streaming": True}
    samples = list(datasets.load_dataset(str(folder), **options))
    assert [sample["txt"] for sample in samples] == [PAIRS[11]["caption"]]
    assert samples[0]["jpg"].size == (48, 48)
    erasure.command(request, store=str(tmp_path / "store"), json=True)
    report = read_json()["stores"][0]
    assert [one["target"] for one in report["published"]] == ["hub:team/kites"], "its history still has them"


def test_dataset_is_published_to_s3_once(made, s3_environment, tmp_path, capsys):
    _, pack = made
    target = f"s3://mill/published/{tmp_path.name}"
    report = run(tmp_path, capsys, pack.key, target)
    assert report["bytes_to_send"] == report["bytes"] > 0
    place = open_store(target)
    assert place.names("") == sorted(file["name"] for file in report["files"])
    assert {file["name"]: file["sha256"] for file in report["files"]} == {
        name: hashlib.sha256(place.read(name)).hexdigest() for name in place.names("")
    }
    assert run(tmp_path, capsys, pack.key, target)["bytes_to_send"] == 0
    place.put("00000.tar", b"\0" * place.size("00000.tar"))
    again = run(tmp_path, capsys, pack.key, target)
    assert [file["name"] for file in again["files"] if file["sent"]] == ["00000.tar"]
