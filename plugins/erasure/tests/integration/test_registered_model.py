"""A takedown with --delete-raw erases what MLflow holds of a pair, and searches it; who asked is in the log only."""

import base64
import html
import json
from pathlib import Path

import pytest

from dataops.images.decode import decode, make_preview
from plugins.erasure import command as takedown
from tests.manifests import build_manifest
from tests.registrations import connect, register_mixed
from tests.unit.tasks.dataset_chain import pair

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("register_plugins")]


def test_takedown_erases_pairs_in_the_registry(mlflow_url, upstream, tmp_path, capsys):
    store, _ = register_mixed(upstream, tmp_path, "erased")
    client, removed = connect(), pair(4)
    run = client.get_model_version("erased", "1").run_id
    file = tmp_path / "request.txt"
    file.write_text(f"{removed['url']}\n")
    preview = base64.b64encode(make_preview(decode(removed["data"]))).decode()
    page = f'<li>{html.escape(removed["caption"])}</li><img src="data:image/jpeg;base64,{preview}"> and more'
    client.log_text(run, page, "dataset.html")
    quoting = build_manifest("filter", facts={"examples": {"x": [removed["caption"]]}})
    client.log_text(run, quoting.encode().decode(), "manifests/filter.json")
    client.set_tag(run, "mlflow.note.content", f"see {removed['url']}")
    client.update_model_version("erased", "1", f"it saw {removed['url']} too")
    options = {"delete_raw": True, "yes": True, "requested_by": "Jane Roe"}
    assert takedown.command(file, **options, store=store.uri, json=True) == 0
    output = capsys.readouterr().out
    search = next(one for one in json.loads(output)["stores"] if one["datasets"])["search"]
    places = {one["place"].split()[0]: one for one in search["searched"]}
    assert places.keys() >= {"store", "home", "MLflow"}
    assert places["MLflow"]["files"] > 10
    assert search["found"] == []
    found = client.get_run(run)
    assert found.data.tags["mlflow.note.content"] == "see " + "-" * len(removed["url"])
    assert client.get_model_version("erased", "1").description == f"it saw {'-' * len(removed['url'])} too"
    (tmp_path / "downloaded").mkdir()
    files = [Path(client.download_artifacts(run, "", str(tmp_path / "downloaded"))), store.root]
    texts = {path: path.read_bytes() for root in files for path in root.rglob("*") if path.is_file()}
    cleaned = next(data.decode() for path, data in texts.items() if path.name == "dataset.html" and b"more" in data)
    assert cleaned.endswith('A"> and more')
    assert len(cleaned.encode()) == len(page.encode())
    for text in (preview, removed["caption"], json.dumps(removed["caption"])[1:-1], removed["url"]):
        assert [path for path, data in texts.items() if text.encode() in data and path.parent.name != "takedowns"] == []
    who = [path.name for path, data in texts.items() if b"Jane" in data]
    assert [name.partition(".")[2] for name in who] == ["log.json"]
    assert "Jane" not in output
