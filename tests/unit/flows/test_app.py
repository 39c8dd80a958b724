import json

import prefect  # noqa: F401  its first import makes ~/.prefect, in the home of the user who runs the tests
import pytest

from dataops import plugins
from dataops.store import open_store
from flows.app import run_command
from flows.commands.run import show_where_to_watch
from flows.records import RunRecord
from infra.local import services
from tests.stranger import Stranger

READ_ONLY = [
    (["runs"], 0),
    (["runs", "--json"], 0),
    (["show", "small-20260101T000000-abcd"], 2),
    (["show", "0123456789abcdef", "--page", "page.html"], 2),
    (["trace", "https://example.org/a.jpg"], 2),
    (["trace", "example.org"], 2),
    (["trace", "models:/name/1"], 2),
    (["promote", "name"], 2),
    (["status"], 0),
    (["status", "--show-login"], 2),
    (["down"], 0),
    (["rerun", "small-20260101T000000-abcd"], 2),
    (["run", "missing.toml"], 2),
    (["deploy", "missing.toml"], 2),
    (["takedown", "missing.txt"], 2),
    (["export", "0123456789abcdef", "--format", "hf", "--out", "out"], 2),
    (["eval", "missing", "--suite", "missing.toml"], 2),
    (["eval", "missing", "--suite", "{suite}"], 2),
    (["datasets", "fetch", "missing.toml"], 2),
    (["config", "show", "missing.toml"], 2),
    (["plan", "missing.toml"], 2),
    (["try", "filter"], 2),
    (["--version"], 0),
    (["down", "--version"], 2),
]
"""Commands that only read, or end before they write, each with its exit code in an empty folder."""


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """Go into an empty folder, with an empty home folder of the user."""
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    for name in ("user", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


@pytest.mark.parametrize(("arguments", "code"), READ_ONLY, ids=str)
def test_commands_that_read_create_nothing_in_an_empty_folder(empty, arguments, code):
    suite = empty / "suite.toml"
    (empty / "set" / "test" / "one").mkdir(parents=True)
    (empty / "set" / "test" / "one" / "0.png").write_bytes(b"")
    suite.write_text('name = "s"\n[[task]]\nname = "set"\nkind = "classification"\nroot = "set"\n')
    assert run_command([argument.format(suite=suite) for argument in arguments]) == code
    assert [path for name in ("user", "work") for path in (empty / name).rglob("*")] == []


def skip_if_not_installed(command):
    """Skip the test of a command of a plugin that is not installed."""
    if not any(command in plugins.targets(group) for group in plugins.kinds("commands.")):
        pytest.skip(f"{command} is not installed")


@pytest.fixture
def project(empty):
    """Return the folder of a project with one run in its store."""
    store = open_store(str(services.home() / "store"))
    RunRecord(run_id="r-1", name="r", created_at="2026", config={}, state="completed").save(store)
    return empty / "work"


@pytest.mark.parametrize(
    "command",
    [
        *(["show"], ["rerun"], ["promote"], ["export", "--format", "hf", "--out", "out"]),
        *(["browse"], ["summary"], ["verify", "--key", "key"], ["publish", "--to", "out"], ["bom", "--out", "out"]),
        *(["sign", "--key", "key"], ["trace"], ["models"], ["diff", "r-1"]),
    ],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize("name", ["", " ", "x" * 300, "~no-such-user"])
def test_a_name_that_is_empty_or_of_no_file_is_not_the_newest_run_or_the_working_folder(project, capsys, command, name):
    """An empty name comes from a shell script's variable that is not set."""
    skip_if_not_installed(command[0])
    assert run_command([*command, name]) == 2
    assert "the name of what to work on" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        *(["show"], ["show", "r-1"], ["rerun", "r-1"], ["runs"]),
        *(["takedown", "list"], ["takedown", "list.txt"]),
        *(["export", "r-1", "--format", "hf", "--out", "out"], ["browse"], ["try", "filter"]),
        *(["publish", "r-1", "--to", "out"], ["trace", "http://example.org/a.jpg"]),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("store", ["nostore", "", "list.txt"])
def test_a_store_that_is_not_there_is_refused_and_not_made(project, capsys, command, store):
    skip_if_not_installed(command[0])
    (project / "list.txt").write_text("http://example.org/a.jpg\n")
    before = sorted(project.rglob("*"))
    assert run_command([*command, "--store", store]) == 2
    printed = capsys.readouterr()
    assert "r-1" not in printed.out
    assert store in printed.err
    assert sorted(project.rglob("*")) == before


def test_the_runs_of_a_named_store_are_its_own(project, capsys):
    (project / "other").mkdir()
    assert run_command(["show"]) == 0
    assert "r-1" in capsys.readouterr().out
    assert run_command(["show", "--store", "other"]) == 2
    assert "there is no run in the store other" in capsys.readouterr().err
    assert run_command(["runs", "--store", "other", "--json"]) == 0
    assert capsys.readouterr().out.strip() == "[]"


GREET = """
    def greet(name: str) -> int:
        \"\"\"Greet somebody.

        Args:
            name: Who is greeted.
        \"\"\"
        {body}
        print("hello", name)
        return 4
"""
RUN = "import sys; from flows.app import run_command; sys.exit(run_command({arguments}))"


@pytest.fixture
def stranger(tmp_path):
    return Stranger(tmp_path)


def test_list_of_commands_imports_none_of_them(stranger):
    stranger.install("loud", "print('imported')" + GREET.format(body=""), "[pairmill.commands.run]\nx = loud:greet\n")
    code = RUN.format(arguments=["--help"]).replace("sys.exit(", "print(").replace("]))", "])); print(*sys.modules)")
    done = stranger.run(code)
    assert "imported" not in done.stdout
    assert not {"flows.commands.run", "polars", "pyarrow", "prefect", "mlflow"} & set(done.stdout.split()), done.stderr


@pytest.mark.parametrize("where", ["module", "function", "nowhere"])
def test_command_without_its_packages_is_one_error(stranger, where):
    module = GREET.format(body="import no_such_package" if where == "function" else "")
    stranger.install("bare", module, "[pairmill.commands.look]\ngreet = bare:greet\n")
    if where == "module":
        (stranger.folder / "bare.py").write_text("import no_such_package\n")
    if where == "nowhere":
        (stranger.folder / "bare.py").unlink()
    begin, end = (
        ("bare 1.0: ", "update or uninstall it") if where == "nowhere" else ("'greet' ", "--force-reinstall bare")
    )
    done = stranger.run(RUN.format(arguments=["greet", "you"]))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"pairmill: {begin}")
    assert done.stderr.endswith(f"{end}\n")
    assert done.stderr.count("\n") == 1


def test_unknown_command_is_an_error_with_the_nearest_one(capsys):
    assert run_command(["rerum", "x"]) == 2
    assert "there is no command 'rerum'; did you mean rerun?" in capsys.readouterr().err


def test_wrong_option_is_one_error_also_in_json(capsys):
    assert run_command(["show", "--jsn", "--json"]) == 2
    out, err = capsys.readouterr()
    message = "Unknown option: --jsn. Did you mean --json? `pairmill show --help` lists the options"
    assert json.loads(out) == {"error": {"type": "ConfigError", "message": message, "exit_code": 2}}
    assert err == f"pairmill: {message}\n"


def test_lines_that_a_command_writes_itself_are_json_objects_too(capsys, monkeypatch):
    monkeypatch.setenv("PAIRMILL_LOG_FORMAT", "json")
    server = services.ServiceStatus(
        "prefect", "http://127.0.0.1:4200/api", "http://127.0.0.1:4200", 1, "running", "log"
    )
    show_where_to_watch("shop-1", [server])
    assert run_command(["rerum"]) == 2
    first, error = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["levelname"], first["msg"]) == ("INFO", "run shop-1\n  Prefect  http://127.0.0.1:4200")
    assert error["levelname"] == "ERROR"
    assert error["msg"].startswith("pairmill: there is no command 'rerum'")
