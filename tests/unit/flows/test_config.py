import tomllib
from unittest.mock import Mock

import pytest

from dataops.errors import ConfigError
from flows.config import RunConfig, check_config, load_config
from training.evaluation.suite import load_suite


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.warc.gz").write_bytes(b"")
    suite = tmp_path / "suite"
    (suite / "set" / "test" / "one").mkdir(parents=True)
    (suite / "set" / "test" / "one" / "0.png").write_bytes(b"")
    (suite / "suite.toml").write_text('name = "s"\n[[task]]\nname = "set"\nkind = "classification"\nroot = "set"\n')

    def write(text="", **replaced):
        tables = {
            "store": f'uri = "{tmp_path / "store"}"',
            "source": 'kind = "warc"\npaths = ["*.warc.gz"]',
            "download": 'contact = "mailto:us@example.org"',
            "evaluate": 'suite = "suite/suite.toml"',
            "register": 'model_name = "m"',
        } | replaced
        path = tmp_path / "run.toml"
        body = "\n".join(f"[{name}]\n{table}" for name, table in tables.items())
        path.write_text(f'name = "test"\n{text}\n{body}\n')
        return path

    return write


def test_a_dataset_of_a_mixture_that_is_not_in_the_store_is_a_problem_before_any_stage(tmp_path):
    key = "b" * 16
    values = {
        "name": "mixed",
        "store": {"uri": str(tmp_path / "store")},
        "source": {"kind": "warc", "paths": [str(tmp_path / "a.warc")]},
        "download": {"contact": "mailto:me@example.org"},
        "train": {"dataset": [{"weight": 1}, {"key": key, "weight": 1}]},
    }
    (tmp_path / "a.warc").touch()
    with pytest.raises(ConfigError, match=f"train.dataset: there is no complete dataset pack/{key} in .*store"):
        check_config(values, "mine.toml")
    check_config(values, "mine.toml", until="pack")
    (tmp_path / "store" / "pack" / key).mkdir(parents=True)
    (tmp_path / "store" / "pack" / key / "manifest.json").write_text("{}")
    check_config(values, "mine.toml")


def test_relative_store_starts_at_the_projects_folder(write, monkeypatch, tmp_path):
    path = write(store="")
    store = str(tmp_path / ".pairmill/store")
    assert load_config(path).store.uri == store, "no home yet: the current folder is the project's"
    for name in (".pairmill", "sub"):
        (tmp_path / name).mkdir(exist_ok=True)
    assert load_config(path).store.uri == store
    monkeypatch.chdir(tmp_path / "sub")
    values = tomllib.loads(path.read_text())
    assert RunConfig.model_validate(values).store.uri == str(tmp_path / ".pairmill/store")
    del values["store"]
    assert RunConfig.model_validate(values).store.uri == str(tmp_path / ".pairmill/store")
    for uri in ("s3://bucket/prefix", "/elsewhere"):
        assert RunConfig.model_validate({**values, "store": {"uri": uri}}).store.uri == uri
    assert RunConfig.model_validate({**values, "store": {"uri": "mine"}}).store.uri == str(tmp_path / "mine")


def test_settings_that_need_a_suite_are_errors_without_one(write):
    settings = ("train.evaluate_every=100", 'register.floors={"digits/top1"=0.2}', 'register.not_worse=["digits"]')
    with pytest.raises(ConfigError) as caught:
        load_config(write(evaluate=""), settings)
    for key in ("train.evaluate_every", "register.floors", "register.not_worse"):
        assert f"{key}: needs evaluate.suite, a TOML file with your evaluation sets" in str(caught.value)
    assert load_config(write(evaluate=""), settings[1:], until="train")


def test_tasks_of_the_gate_that_the_suite_lacks_are_errors(write, monkeypatch):
    read = Mock(wraps=load_suite)
    monkeypatch.setattr("tasks.evaluate.config.load_suite", read)
    settings = ('register.floors={"sets/top1"=0.2, "set/top1"=0.1}', 'register.not_worse=["set", "other"]')
    with pytest.raises(ConfigError) as caught:
        load_config(write(), settings)
    found = [line.strip() for line in str(caught.value).splitlines() if "register." in line]
    assert [line.partition(":")[0] for line in found] == ["register.floors", "register.not_worse"]
    assert all("has no task" in line and "; there are set (--set)" in line for line in found)
    assert read.call_count == 1


def test_download_needs_a_contact(write):
    path = write(download="threads = 4")
    with pytest.raises(ConfigError, match=r"download\.contact: is required for requests to hosts"):
        load_config(path)
    for until in ("extract", "filter"):
        assert load_config(path, until=until).download.contact is None
    for until in ("download", "pack", None):
        with pytest.raises(ConfigError, match="contact"):
            load_config(path, until=until)
    assert load_config(path, ['download.connect_to={"a.test" = "127.0.0.1:80"}'])
    assert load_config(path, ["download.contact=https://example.org/bot"])


def test_one_mistake_is_one_problem(write):
    with pytest.raises(ConfigError, match=r"2 problems.*\n  name: .*\n  source\.kind: "):
        load_config(write(download="", register=""), ["name=x!", "source.kind=wet"])


def test_a_number_that_is_not_finite_is_a_problem(write):
    with pytest.raises(ConfigError, match=r"train\.lr: inf: it must be a finite number"):
        load_config(write(), ["train.lr=inf"])
    with pytest.raises(ConfigError, match=r"train\.epochs: '5.nlr = 3': it must be an integer"):
        load_config(write(), ["train.epochs=5\nlr = 3"])


def test_stages_that_will_not_run_need_no_files_and_no_model_name(write):
    path = write(evaluate='suite = "nowhere.toml"', train='model = "nowhere"', register="")
    assert load_config(path, until="pack").register_.model_name == "test"
    for until, missing in (
        ("train", r"1 problem.*\n  train\.model: "),
        (None, r"2 problems.*\n.*\n  evaluate\.suite: "),
    ):
        with pytest.raises(ConfigError, match=missing):
            load_config(path, until=until)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name = ", "not TOML"),
        ("\x00", "not TOML"),
        ("[[[", "not TOML"),
        ("seed = 1\r\nname = 'caf\xe9'", "not TOML: .* in line 2; save the file in UTF-8"),
    ],
)
def test_load_config_refuses_a_file_that_is_not_toml(tmp_path, text, problem):
    path = tmp_path / "bad.toml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=rf"bad\.toml: {problem}"):
        load_config(path)
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read"):
        load_config(tmp_path / "none.toml")
