"""`pairmill identity`: the files that it writes, and what a config says about them before a run."""

import json
import os
import stat
from pathlib import Path

import pytest

from dataops.errors import ConfigError
from flows.app import run_command
from flows.config import load_config
from plugins.identity.keys import key_id, load_key

CONFIG = """
name = "n"
[source]
kind = "site"
start = ["https://a.test/"]
contact = "mailto:a@b.test"
[download]
contact = "mailto:a@b.test"
[download.identity]
key_file = "keys/identity.pem"
signature_agent = "https://crawler.example.org"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_created_identity_is_ready_for_a_config(folder, capsys):
    pytest.importorskip("plugins.crawl")
    (folder / "run.toml").write_text(CONFIG)
    with pytest.raises(ConfigError) as raised:
        load_config(Path("run.toml"), until="extract")
    problem = f"download.identity.key_file: {folder}/keys/identity.pem does not exist on {os.uname().nodename}; "
    problem += f"`pairmill identity create --out {folder}/keys/identity.pem` makes one (line 10)"
    assert str(raised.value).splitlines()[1:] == [f"  {problem}"]
    create = ["identity", "create", "--out", "keys/identity.pem", "--agent", "https://Crawler.example.org/"]
    assert run_command(create) == 0
    shown = capsys.readouterr().out
    path = folder / "keys" / "identity.pem"
    kid = key_id(load_key(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().splitlines()[1] not in shown
    assert f"key {kid}: keys/identity.pem" in shown
    assert "serve it at https://crawler.example.org/.well-known/http-message-signatures-directory" in shown
    assert [one["kid"] for one in json.loads(path.with_suffix(".directory.json").read_bytes())["keys"]] == [kid]
    assert "\nSignature: " in path.with_suffix(".directory.headers").read_text()

    config = load_config(Path("run.toml"))
    assert config.stage_config("source").identity == config.download.identity
    assert config.source.identity is None
    assert config.stage_config("source").key_config() == config.source.key_config()
    path.chmod(0o644)
    with pytest.raises(ConfigError, match=r"download\.identity\.key_file: .* run `chmod 600 "):
        load_config(Path("run.toml"))

    assert run_command(create) == 2
    assert "identity.pem exists, and is not overwritten; name another file with --out" in capsys.readouterr().err


def test_directory_lists_the_key_in_use_and_the_next_one(folder, capsys, read_json):
    assert run_command(["identity", "create", "--out", "old.pem"]) == 0
    assert not (folder / "old.directory.headers").exists()
    assert run_command(["identity", "create", "--out", "new.pem"]) == 0
    capsys.readouterr()
    sign = ["identity", "directory", "old.pem", "new.pem", "--agent", "https://a.test", "--json"]
    assert run_command(sign) == 0
    printed = read_json()
    ids = [key_id(load_key(Path(name))) for name in ("old.pem", "new.pem")]
    assert printed["keys"] == dict(zip(("old.pem", "new.pem"), ids, strict=True))
    assert [one["kid"] for one in json.loads(Path(printed["directory"]).read_bytes())["keys"]] == ids
    assert Path(printed["headers"]).read_text().count("keyid=") == 2
