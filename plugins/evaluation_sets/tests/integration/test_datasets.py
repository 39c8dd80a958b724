"""Evaluation sets are fetched from a server with the Hub's protocol: complete, checked, resumed, or with a reason."""

import io
import json
import shutil
import tarfile
from types import SimpleNamespace

import pytest
from PIL import Image

from dataops.errors import SourceError
from flows.app import run_command
from plugins.evaluation_sets.hub_sets import fetch_suite
from tests.servers.hub import REVISION, Hub
from training.evaluation.suite import load_suite

ROW = '[[task]]\nname = "{0}"\nkind = "classification"\nsource = "{1}"\n'


def tar(*samples):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as file:
        for number in samples:
            image = io.BytesIO()
            Image.effect_noise((64, 64), 90).save(image, "PNG")
            for suffix, data in (("png", image.getvalue()), ("cls", str(number % 2).encode())):
                member = tarfile.TarInfo(f"s{number}.{suffix}")
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))
    return sink.getvalue()


def repository():
    return {
        "README.md": b"# not needed",
        "../up.tar": b"a name that leads out",
        "classnames.txt": b"cat\ndog\n",
        "zeroshot_classification_templates.txt": b"a {c}\n",
        "test/nshards.txt": b"2",
        "test/0.tar": tar(0, 1),
        "test/1.tar": tar(2),
        "train/nshards.txt": b"1",
        "train/0.tar": tar(3),
        "test/notes.bin": b"not needed either",
    }


@pytest.fixture
def hub(monkeypatch):
    with Hub({"clip-benchmark/wds_cats": repository(), "clip-benchmark/odd": {"a.csv": b"x"}}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "5")
        yield server


def write(path, *rows):
    path.write_text('name = "s"\n' + "".join(rows))
    return path


def test_fetch_suite_downloads_a_set_once_and_records_its_files(tmp_path, hub):
    suite = write(tmp_path / "s.toml", ROW.format("cats", "clip-benchmark/wds_cats"))
    (result,) = fetch_suite(suite, tmp_path / "sets")
    assert (result.state, result.name) == ("fetched", "cats")
    folder = tmp_path / "sets/wds_cats"
    downloaded = {
        p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and ".cache" not in p.parts
    }
    lists = {"classnames.txt", "zeroshot_classification_templates.txt", "fetched.json"}
    assert downloaded == lists | {"test/nshards.txt", "test/0.tar", "test/1.tar"}
    record = json.loads((folder / "fetched.json").read_text())
    assert (record["revision"], record["splits"]) == (REVISION, ["test"])
    assert result.bytes == sum(file["bytes"] for file in record["files"].values())
    assert [s.label for s in load_suite(suite, tmp_path / "sets").tasks[0].data.samples()] == [0, 1, 0]

    hub.asked.clear()
    assert fetch_suite(suite, tmp_path / "sets")[0].state == "reused"
    assert hub.asked == []
    probe = 'train_split = "train"\nprotocols = ["linear_probe"]\n'
    more = write(tmp_path / "t.toml", ROW.format("cats", "clip-benchmark/wds_cats") + probe)
    assert fetch_suite(more, tmp_path / "sets")[0].state == "fetched"
    assert {file for method, file, _ in hub.asked if method == "GET"} == {"train/nshards.txt", "train/0.tar"}


def test_fetch_suite_downloads_nothing_of_a_set_that_is_too_large(tmp_path, hub, capsys, monkeypatch):
    suite, sets = write(tmp_path / "s.toml", ROW.format("cats", "clip-benchmark/wds_cats")), tmp_path / "sets"
    command = ["datasets", "fetch", str(suite), "--data", str(sets), "--json"]
    assert run_command([*command, "--max-bytes", "4000"]) == SourceError.exit_code
    (found,) = json.loads(capsys.readouterr().out.splitlines()[0])["sets"]
    assert (found["state"], "more than 4.0 kB; raise --max-bytes" in found["reason"]) == ("failed", True)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5000))
    (result,) = fetch_suite(suite, sets)
    assert (result.state, "has 5.0 kB free" in result.reason) == ("failed", True)
    assert [asked for asked in hub.asked if asked[0] == "GET" and asked[1].endswith(".tar")] == []
    assert not sets.exists()


def test_fetch_suite_resumes_an_interrupted_download(tmp_path, hub):
    # huggingface_hub writes ten mebibytes at a time: what came after them is lost
    hub.repositories["clip-benchmark/wds_cats"]["test/0.tar"] += bytes(12 << 20)
    hub.cut["test/0.tar"] = 11 << 20
    suite = write(tmp_path / "s.toml", ROW.format("cats", "clip-benchmark/wds_cats"))
    assert fetch_suite(suite, tmp_path / "sets")[0].state == "fetched"
    assert ("GET", "test/0.tar", f"bytes={10 << 20}-") in hub.asked
    whole = hub.repositories["clip-benchmark/wds_cats"]["test/0.tar"]
    assert (tmp_path / "sets/wds_cats/test/0.tar").read_bytes() == whole


def test_fetch_suite_deletes_falsified_files(tmp_path, hub):
    data = hub.repositories["clip-benchmark/wds_cats"]["test/1.tar"]
    hub.falsified["test/1.tar"] = data[:-1] + b"x"
    suite = write(tmp_path / "s.toml", ROW.format("cats", "clip-benchmark/wds_cats"))
    (result,) = fetch_suite(suite, tmp_path / "sets")
    assert (result.state, "test/1.tar differs from the checksum" in result.reason) == ("failed", True)
    assert not (tmp_path / "sets/wds_cats/test/1.tar").exists()
    assert not (tmp_path / "sets/wds_cats/fetched.json").exists()
    hub.falsified.clear()
    assert fetch_suite(suite, tmp_path / "sets")[0].state == "fetched"


def test_fetch_lists_unavailable_sets_and_downloads_the_others(tmp_path, hub, capsys):
    hub.gated.add("someone/secret")
    missing = '[[task]]\nname = "never"\nkind = "classification"\nmissing = "its owner keeps it"\n'
    names = {"none": "someone/nothing", "secret": "someone/secret", "odd": "clip-benchmark/odd"}
    rows = [ROW.format(name, source) for name, source in {**names, "cats": "clip-benchmark/wds_cats"}.items()]
    suite = write(tmp_path / "s.toml", *rows, missing)
    assert run_command(["datasets", "fetch", str(suite), "--data", str(tmp_path / "sets"), "--json"]) == 0
    output = capsys.readouterr()
    assert "HTTP Request" not in output.err
    found = {row["name"]: row for row in json.loads(output.out)["sets"]}
    states = {name: row["state"] for name, row in found.items()}
    assert states == {"none": "failed", "secret": "failed", "odd": "failed", "cats": "fetched", "never": "missing"}
    assert "RepositoryNotFoundError" in found["none"]["reason"]
    assert "GatedRepoError" in found["secret"]["reason"]
    assert "has no test/nshards.txt" in found["odd"]["reason"]
    partial = load_suite(suite, tmp_path / "sets", partial=True)
    assert [task.name for task in partial.tasks] == ["cats"]
    assert {each.name for each in partial.absent} == {"none", "secret", "odd", "never"}


def test_fetch_is_retryable_when_the_server_does_not_answer(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    suite = write(tmp_path / "s.toml", ROW.format("cats", "clip-benchmark/wds_cats"))
    assert run_command(["datasets", "fetch", str(suite), "--data", str(tmp_path / "sets")]) == 75
    assert "none of 1 sets could be downloaded" in capsys.readouterr().err
