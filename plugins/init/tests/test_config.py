"""`pairmill config` prints what a config means, and the schema, and writes nothing."""

import tomllib

import jsonschema

from flows.app import run_command


def test_what_is_shown_is_the_config_by_its_own_schema(tmp_path, monkeypatch, capsys, read_json):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path / "home"))
    (tmp_path / "a.toml").write_text('name = "birds"\n[source]\nkind = "warc"\npaths = ["a.warc.gz"]\n')
    assert run_command(["config", "show", "a.toml"]) == 0
    shown = tomllib.loads(capsys.readouterr().out)
    assert run_command(["config", "schema"]) == 0
    jsonschema.validate(shown, read_json())
    assert shown["source"]["paths"] == [str(tmp_path / "a.warc.gz")]
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "a.toml"]
