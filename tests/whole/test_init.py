import io
import json
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest

from dataops.errors import ConfigError
from flows.config import load_config
from plugins.init.init import init
from training.evaluation.suite import load_suite

KINDS = ("warc", "common_crawl", "pairs", "site")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def make(kind, folder="birds of prey", data=None, contact=None, **more):
    return init(Path(folder), kind=kind, data=data, contact=contact, **{"yes": True, "json": True, **more})


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_config_and_suite_are_valid_in_their_folder(kind, monkeypatch, read_json):
    assert make(kind) == 0
    result = read_json()
    folder = Path("birds of prey")
    assert result["written"] == ["config.toml", "suite.toml", "config.schema.json", "evaluation/digits"]
    assert result["next"][-1] == "pairmill run config.toml"
    text = (folder / "config.toml").read_text()
    schema = json.loads((folder / text.splitlines()[0].removeprefix("#:schema ")).read_text())
    jsonschema.validate(tomllib.loads(text), schema)
    monkeypatch.chdir(folder)
    if kind in ("warc", "pairs"):
        with pytest.raises(ConfigError, match="matches no file"):
            load_config(Path("config.toml"))
        Path("data").mkdir()
        Path("data/a.warc.gz" if kind == "warc" else "data/a.parquet").touch()
    config = load_config(Path("config.toml"))
    assert (config.name, config.register_.model_name) == ("birds-of-prey", "birds-of-prey")
    (task,) = load_suite(Path("suite.toml")).tasks
    assert task.problems() == []


def test_nothing_is_replaced_without_asking(monkeypatch, capsys):
    make("pairs", "p")
    make("pairs", "p")
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["written"] == []
    Path("p/config.toml").write_text("mine")
    Path("p/suite.toml").unlink()
    with pytest.raises(ConfigError, match=r"p/config.toml: exists; nothing was written"):
        make("pairs", "p")
    Path("lists").mkdir()
    Path("lists/a.csv").touch()
    for answer, text in (("no", "mine"), ("", "mine"), ("yes", None)):
        monkeypatch.setattr(sys, "stdin", Terminal(f"lists/*.csv\nmailto:me@example.org\n{answer}\n"))
        if text is not None:
            with pytest.raises(ConfigError, match="nothing was written"):
                make("pairs", "p", yes=False, json=False)
            assert (Path("p/config.toml").read_text(), Path("p/suite.toml").exists()) == ("mine", False)
        else:
            assert make("pairs", "p", yes=False, json=False) == 0
    config = tomllib.loads(Path("p/config.toml").read_text())
    assert config["source"]["paths"] == ["../lists/*.csv"], "typed in the current folder, read from the project's"
    assert config["download"]["contact"] == "mailto:me@example.org"


def test_three_questions_are_asked_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", Terminal('ftp\nsite\nhttps://x.test/"a"\nhttps://me.test/\\u\n'))
    assert make(None, ".", yes=False, json=False) == 0
    captured = capsys.readouterr()
    assert captured.err.count("?") == 4
    assert "wrote config.toml" in captured.out
    assert tomllib.loads(Path("config.toml").read_text())["source"]["start"] == ['https://x.test/"a"']


@pytest.mark.parametrize(
    ("kind", "options", "error"),
    [
        (None, {}, "--from is not set; add"),
        (None, {"data": ""}, "--data is empty; name the folder"),
        (None, {"data": "nowhere"}, "--from is not set, and 'nowhere' is no folder; add"),
        ("site", {"yes": False}, "no terminal to ask on"),
        ("common-crawl", {"data": "CC MAIN"}, "source.crawl: ..CC MAIN..: .CC MAIN. is no crawl id"),
        ("warc", {"contact": "my site"}, "--contact 'my site': is no URL of a page"),
        ("pairs", {"data": "nowhere/*.csv"}, "--data nowhere/.*: there is no such file or folder"),
        ("pairs", {"data": "."}, r"--data \.: is a folder, and --from pairs reads files; name its files"),
        ("warc", {"folder": "file/below"}, "cannot be written"),
    ],
)
def test_what_is_missing_or_wrong_is_named_and_nothing_written(kind, options, error):
    Path("file").touch()
    with pytest.raises(ConfigError, match=error):
        make(kind, **options)
    assert [path.name for path in Path().iterdir()] == ["file"]


def test_site_of_this_machine_is_reached_by_its_port(monkeypatch):
    make("site", "s", "http://localhost:8797/a")
    config = tomllib.loads(Path("s/config.toml").read_text())
    for table in ("source", "download"):
        assert config[table]["connect_to"] == {"localhost": "127.0.0.1:8797"}
    monkeypatch.chdir("s")
    assert load_config(Path("config.toml"))
    with pytest.raises(ConfigError, match="source"):
        make("site", "t", "http://localhost:x/")
