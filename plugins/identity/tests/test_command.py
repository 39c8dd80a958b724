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
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_created_identity_is_ready_for_a_config(folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder / "run.toml").write_text(CONFIG)
    with pytest.raises(ConfigError) as raised:
        load_config(Path("run.toml"), until="extract")
    problem = f"download.identity.key_file: {folder}/keys/identity.pem does not exist on {os.uname().nodename}; "
    problem += f"`pairmill identity create --out {folder}/keys/identity.pem` makes one (line 10)"
    assert str(raised.value).splitlines()[1:] == [f"  {problem}"]
    with pytest.raises(ConfigError) as raised:
        load_config(Path("run.toml"))
    assert [line for line in str(raised.value).splitlines() if "identity.pem" in line] == [f"  {problem}"]

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
    headers = path.with_suffix(".directory.headers").read_text().splitlines()
    assert [line.partition(":")[0] for line in headers] == [
        "Content-Type",
        "Cache-Control",
        "Content-Digest",
        "Signature-Input",
        "Signature",
    ]

    config = load_config(Path("run.toml"))
    assert config.stage_config("source").identity == config.download.identity
    assert config.source.identity is None
    assert config.stage_config("source").key_config() == config.source.key_config()
    path.chmod(0o644)
    with pytest.raises(ConfigError, match=r"download\.identity\.key_file: .* run `chmod 600 "):
        load_config(Path("run.toml"))

    assert run_command(create) == 2
    assert "identity.pem exists, and is not overwritten; name another file with --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "settings", "paths"),
    [
        ('kind = "site"', [], ["download"]),
        (
            'kind = "site"\nidentity = { key_file = "own.pem", signature_agent = "https://b.test" }',
            [],
            ["source", "download"],
        ),
        ('kind = "site"', ["seed=-1"], ["download"]),
    ],
    ids=["of the download", "of its own", "beside a wrong key"],
)
@pytest.mark.parametrize("until", ["extract", "download", None])
def test_missing_key_file_is_reported_once_for_each_key_that_names_it(
    folder: Path, lines: str, settings: list[str], paths: list[str], until: str | None
):
    (folder / "run.toml").write_text(CONFIG.replace('kind = "site"', lines))
    with pytest.raises(ConfigError) as raised:
        load_config(Path("run.toml"), settings, until=until)
    found = [line.strip() for line in str(raised.value).splitlines() if "does not exist" in line and ".pem" in line]
    expected = paths if until != "extract" or len(paths) == 1 else ["source"]
    assert [line.partition(".identity.key_file: ")[0] for line in found] == expected


def test_missing_key_file_of_several_crawls_is_reported_once(folder: Path):
    site = 'kind = "site"\nstart = ["https://a.test/"]\ncontact = "mailto:a@b.test"\n'
    source = f"[source]\n{site}"
    assert source in CONFIG
    (folder / "run.toml").write_text(
        CONFIG.replace(source, "".join(f'[[source]]\nname = "{name}"\n{site}' for name in ("a", "b")))
    )
    for until in ("extract", "download"):
        with pytest.raises(ConfigError) as raised:
            load_config(Path("run.toml"), until=until)
        assert str(raised.value).count(".identity.key_file: ") == 1


def test_directory_lists_the_key_in_use_and_the_next_one(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert run_command(["identity", "create", "--out", "old.pem"]) == 0
    assert not (folder / "old.directory.headers").exists()
    assert run_command(["identity", "create", "--out", "new.pem"]) == 0
    capsys.readouterr()
    sign = ["identity", "directory", "old.pem", "new.pem", "--agent", "https://a.test", "--json"]
    assert run_command(sign) == 0
    printed = json.loads(capsys.readouterr().out)
    ids = [key_id(load_key(Path(name))) for name in ("old.pem", "new.pem")]
    assert printed["keys"] == dict(zip(("old.pem", "new.pem"), ids, strict=True))
    assert [one["kid"] for one in json.loads(Path(printed["directory"]).read_bytes())["keys"]] == ids
    assert Path(printed["headers"]).read_text().count("keyid=") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["create", "--agent", "http://a.test"], "--agent http://a.test: must be https:// and a host"),
        (["create", "--days", "0"], "--days 0: must be 1 to 3650"),
        (["directory", "--agent", "https://a.test"], "name at least one file of a private key"),
        (["directory", "none.pem", "--agent", "https://a.test"], "none.pem does not exist"),
    ],
)
def test_wrong_arguments_write_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
):
    assert run_command(["identity", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not [path for path in folder.rglob("*.pem") if path.is_file()]
