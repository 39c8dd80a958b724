"""A registered model is signed; it is not published after a takedown of what it was trained on."""

import shutil

import pytest

from dataops.errors import ConfigError, ContractError, CorruptPart
from plugins.publish.publish import command
from plugins.publish.sign import sign, verify
from plugins.publish.tests.keys import write_keys
from tests.registrations import register_mixed
from tests.unit.tasks.dataset_chain import pair

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("register_plugins")]


def test_model_that_saw_a_pair_of_a_takedown_is_not_published(mlflow_url, upstream, tmp_path):
    takedown = pytest.importorskip("plugins.erasure.command")
    store, packed = register_mixed(upstream, tmp_path, "withheld")
    file = tmp_path / "request.txt"
    file.write_text(f"{pair(4)['url']}\n")
    assert takedown.command(file, store=store.uri, json=True) == 0
    with pytest.raises(ContractError, match=rf"takedown \w+ removed pairs of dataset {packed.key}") as refused:
        command("withheld@champion", to=str(tmp_path / "out"), license="mit", store=store.uri, json=True)
    assert str(refused.value).startswith("models:/withheld/")
    assert "is not published:" in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_registered_model_is_signed_and_a_changed_byte_on_the_server_is_named(registered, tmp_path, tmp_path_factory):
    private, public = write_keys(tmp_path)
    uri = registered[0].facts["model_uri"]
    with pytest.raises(ConfigError, match="is not signed; sign it with"):
        verify(uri, key=public, json=True)
    assert sign(uri, key=private, json=True) == 0
    assert verify(uri, key=public, json=True) == 0
    changed = (
        "model.safetensors",
        "tokenizer.json",
        "pyfunc.py",
        "transformer.py",
    )  # the code is executed with the model
    base = tmp_path_factory.getbasetemp()  # several models of the server have files of these names
    copies = {path: path.read_bytes() for name in changed for path in base.glob(f"mlflow*/**/{name}")}
    assert {path.name for path in copies} == set(changed)
    for path, data in copies.items():
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    try:
        with pytest.raises(CorruptPart) as refused:
            verify(uri, key=public, json=True)
        assert str(refused.value).startswith(f"{uri}: ")
        assert [name for name in changed if f"{name} differs from what was signed" not in str(refused.value)] == []
    finally:
        for path, data in copies.items():
            path.write_bytes(data)
        for folder in tmp_path_factory.getbasetemp().glob("mlflow*/**/signature"):
            shutil.rmtree(folder)  # the server is shared with tests that list the artefacts of a new version
