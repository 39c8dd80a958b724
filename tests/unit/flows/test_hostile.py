"""Configs, run records and manifests of other people: what is refused, and how their text is printed."""

import io
import json

import pytest
from rich.console import Console

from dataops.errors import ConfigError
from dataops.redaction import redact
from dataops.snapshot import Counts, Input
from dataops.store import FolderStore
from flows import app
from flows.commands import servers, show
from flows.config import load_config
from flows.listeners.progress import StageProgress
from flows.listeners.terminal import ProgressBlock
from flows.records import Attempt, RunRecord, list_runs, load_run
from infra.local.services import ServiceStatus
from tests.manifests import build_manifest

KEY = "AKIA-planted/secret+value"
HOSTILE = "[bold]x[/bold] [link=http://evil]y[/link] :smile:\x1b[2J\x1b]0;title\x07\r\x9b31m\u202e</td><script>"


# Configs --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    path = tmp_path / "run.toml"
    path.write_text('name = "n"\n[source]\npaths = ["x"]\n[register]\nmodel_name = "m"\n')
    return path


@pytest.mark.parametrize(
    ("setting", "where", "what"),
    [
        ("store.secret_access_key=hunter2hunter2", "store.secret_access_key", "by its name"),
        ("store.uri=s3://user:hunter2hunter2@bucket/x", "store.uri", "a URL with credentials"),
        ('source.paths=["https://user:hunter2hunter2@host/x.warc"]', "source.paths.0", "a URL with credentials"),
        (
            'source.paths=["https://h/x?X-Amz-Signature=hunter2hunter2"]',
            "source.paths.0",
            "a URL with credentials",
        ),
        (f"train.model={KEY}", "train.model", "the value of a secret variable"),
        (f"register.description=see {KEY}", "register.description", "the value of a secret variable"),
        ('download.connect_to={"http://u:hunter2hunter2@h" = "1.2.3.4:80"}', "download.connect_to", "a URL with"),
        ("filter.deep={token = 'hunter2hunter2'}", "filter.deep.token", "by its name"),
    ],
)
def test_config_with_a_secret_is_refused_without_repeating_it(config, setting, where, what):
    with pytest.raises(ConfigError) as caught:
        load_config(config, [setting])
    text = str(caught.value)
    assert where in text
    assert what in text
    assert "belong in the environment" in text
    assert "hunter2" not in text
    assert KEY not in text
    assert not (config.parent / ".pairmill").exists(), "nothing was written"


@pytest.mark.parametrize("lines", [True, False])
def test_config_with_a_private_key_is_refused_without_repeating_it(config, lines):
    key = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJhunter2\n-----END PRIVATE KEY-----\n"
    value = key if lines else key.replace("\n", "").removesuffix("-----END PRIVATE KEY-----")
    with pytest.raises(ConfigError, match=r"download\.identity\.key_file: holds a private key") as caught:
        load_config(config, [f"download.identity.key_file={json.dumps(value)}"])
    assert "hunter2" not in str(caught.value)
    assert redact(f"log {key} end") == "log ***\n end"


@pytest.mark.parametrize(
    ("setting", "where"),
    [
        ("name=../x", "name"),
        ("name=/etc/x", "name"),
        ("name=a/b", "name"),
        ('name="a\\nb"', "name"),
        ("register.model_name=../../x", "register.model_name"),
        ("register.model_name=/x", "register.model_name"),
        ("register.alias=../x", "register.alias"),
        ("train.model=../x", "train.model"),
        ("store.uri=s3://bucket/../x", "store.uri"),
        ("store.uri=http://host/x", "store.uri"),
    ],
)
def test_names_that_lead_outside_the_store_are_refused(config, setting, where):
    with pytest.raises(ConfigError, match=where):
        load_config(config, [setting])


# Run records ----------------------------------------------------------------------------------------------------------


def record(**changes):
    known = {"run_id": "r-1", "name": "r", "created_at": "2026", "config": {}}
    return RunRecord.model_construct(**(known | {"state": "failed", "attempts": [], "stages": []} | changes))


@pytest.mark.parametrize("run_id", ["../../etc/passwd", "/etc/passwd", "a/b", "..", "", "a\0b", "a\nb", "x" * 500])
def test_run_ids_that_lead_outside_the_store_are_refused(run_id, tmp_path):
    with pytest.raises(ConfigError, match="is not a run id"):
        load_run(run_id, tmp_path, str(tmp_path / "store"))
    record().save(FolderStore(tmp_path / "store"))
    for command in (["show", run_id], ["rerun", run_id]):
        assert app.run_command([*command, "--store", str(tmp_path / "store")]) == 2


@pytest.mark.parametrize("changes", [{"run_id": "../../x"}, {"run_id": "other"}, {"name": "../x"}, {"state": "odd"}])
def test_records_that_do_not_match_their_name_are_refused(changes, tmp_path, caplog):
    values = json.loads(record().model_dump_json()) | changes
    FolderStore(tmp_path / "store").put("runs/r-1.json", json.dumps(values).encode())
    with pytest.raises(ConfigError, match=r"runs/r-1\.json is not a run record"):
        load_run("r-1", tmp_path, str(tmp_path / "store"))
    assert list_runs(tmp_path, str(tmp_path / "store")) == []  # an invalid record is left out
    assert "runs/r-1.json is not a run record" in caplog.text


# The terminal ---------------------------------------------------------------------------------------------------------


def assert_harmless(text):
    assert not set(text) & set("\x1b\x07\r\x9b\u202e")
    assert "[bold]x[/bold]" in "".join(text.split()), "read as markup"


@pytest.fixture
def printed_by(monkeypatch, tmp_path):
    """Return a function that calls a show function and returns what it prints without a terminal."""

    def capture(show, *arguments):
        out = io.StringIO()
        monkeypatch.setattr("sys.stdout", out)
        show(*arguments)
        return out.getvalue()

    return capture


def manifest(**changes):
    return build_manifest("pack", **{"counts": Counts(input=1, dropped={HOSTILE: 1}), **changes})


def test_tables_and_lines_print_hostile_text_as_text(printed_by, tmp_path):
    store = FolderStore(tmp_path / "store")
    attempt = Attempt(started_at="", host="h", pid=1, error=HOSTILE)
    bad = record(run_id=HOSTILE, model_version=HOSTILE, attempts=[attempt], model_links={HOSTILE: HOSTILE})
    assert_harmless(printed_by(show.show_run, bad, store))
    source = Input(stage=HOSTILE, key=HOSTILE, digest=HOSTILE)
    assert_harmless(printed_by(lambda: show.show_snapshot(manifest(inputs=[source]), store, as_json=False)))
    assert_harmless(printed_by(lambda: show.show_runs([bad], "", as_json=False)))
    service = ServiceStatus(HOSTILE, HOSTILE, HOSTILE, None, "external", "")
    assert_harmless(printed_by(lambda: servers.show_services([service], [HOSTILE], as_json=False)))


def test_no_control_codes_come_from_the_line_of_a_stage():
    out, progress = io.StringIO(), StageProgress("filter", lambda: 1.0)
    progress.update(1, 2, "\x1b[31mred\nforged")
    Console(file=out, width=80, force_terminal=True, color_system=None).print(ProgressBlock(progress, (), 1.0))
    assert "\x1b" not in out.getvalue()
    assert "red\nforged" not in out.getvalue()


def test_json_output_is_escaped(printed_by):
    services = [ServiceStatus(name, "", "", None, "", "") for name in (HOSTILE, "prefect")]
    text = printed_by(lambda: servers.show_services(services, [HOSTILE], as_json=True))
    assert text.isascii()
    other, prefect = json.loads(text)
    assert (other["name"], prefect["late_runs"]) == (HOSTILE, [HOSTILE])
    assert "late_runs" not in other
    assert not set(text) & set("\x1b\x07\r")


def test_messages_on_standard_error_are_escaped(capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", KEY)
    assert app.run_command(["run", f"no-such-{KEY}\x1b[2J\r.toml"]) == 2
    error = capsys.readouterr().err
    assert "\\x1b[2J\\x0d" in error
    assert KEY not in error
    assert "\x1b" not in error
