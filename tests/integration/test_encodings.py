"""No command ends in a traceback where the environment forces an encoding that its paths or texts do not fit."""

import json
import os
import subprocess
import sys

import pytest

from dataops import plugins
from dataops.home import CHECKOUT
from tests.servers.databases import put_database
from tests.stored_snapshots import put_run
from tests.unit.tasks.dataset_chain import packed_in, pair

pytestmark = pytest.mark.timeout(600)

FORCED_ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
STRICT_ASCII = {"PYTHONIOENCODING": "ascii"}
LATIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "latin-1"}
NAME = "hömé-数据"
CAPTION = "a cat é 赤い 😀"
COMMANDS = {
    "help": ["--help"],
    "status": ["status"],
    "runs": ["runs"],
    "runs --json": ["runs", "--json"],
    "show a run": ["show", "run-1"],
    "show a key": ["show", "KEY", "--page", "pagé.html"],
    "gc": ["gc"],
    "doctor": ["doctor", "--store", "störe"],
    "trace": ["trace", "http://host0.example/0.jpg"],
    "trace a file": ["trace", "bïld.jpg"],
    "diff": ["diff", "KEY", "OTHER", "--rows", "rowsé.csv"],
    "takedown": ["takedown", "liste-é.txt", "--reason", "é"],
    "run a missing config": ["run", "cönfig-missing.toml"],
    "run a wrong config": ["run", "cönfig.toml", "--set", "name=é数"],
    "rerun": ["rerun", "é"],
    "export": ["export", "modèle", "--out", "exporté"],
    "eval": ["eval", "modèle.pt", "--suite", "süite.toml"],
    "eval a folder": ["eval", ".", "--suite", "süite.toml"],
    "promote": ["promote", "modèle", "1"],
    "deploy": ["deploy", "cönfig.toml"],
    "datasets": ["datasets", "fetch", "é"],
    "queries": ["queries", "build", "--out", "é.parquet", "--wordnet", "é"],
    "init": ["init", "pröjekt", "--yes"],
    "plan": ["plan", "cönfig.toml"],
    "config show": ["config", "show", "cönfig.toml"],
    "try": ["try", "filter", "--set", "name=é"],
    "models": ["models", "modèle"],
    "summary": ["summary", "KEY", "--out", "résumé.html"],
    "bom": ["bom", "modèle", "--out", "bom-é.json"],
    "publish": ["publish", "KEY", "--to", "publié"],
    "sign": ["sign", "publié", "--key", "clé.pem"],
    "verify": ["verify", "publié", "--key", "clé.pem"],
    "takedowns": ["takedowns"],
    "identity": ["identity", "directory", "--key", "clé.pem"],
    "backfill": ["backfill", "cönfig.toml", "--each", "name=é"],
    "an unknown option": ["runs", "--é"],
    "an unknown command": ["é"],
}


def prepare(folder):
    """Write a store with two datasets, a run and some files; return the keys of the datasets."""
    home = folder / "home"
    store, first = packed_in(home / "store", [pair(n, caption=CAPTION) for n in range(2)])
    _, second = packed_in(home / "store", [pair(n, caption=CAPTION) for n in range(3)])
    put_run(store, "run-1", second.values())
    (folder / "cönfig.toml").write_text('name = "é"\n[source]\nkind = "é"\n', "utf-8")
    (folder / "süite.toml").write_text('name = "é"\n', "utf-8")
    (folder / "liste-é.txt").write_text("http://hôst.example/é.jpg\nhttp://host0.example/0.jpg\n", "utf-8")
    (folder / "bïld.jpg").write_bytes(b"no image")
    return first["pack"].key, second["pack"].key


REAL = ("runs", "diff")
"""Commands that are started as a user does, with non-ASCII arguments too; so are all of a few, which take less time."""
EACH = """
import gc, importlib, json, os, sys
from dataops.process import use_utf8
use_utf8()  # starts this process again, as the command does
import polars, prefect, pyarrow.parquet
from dataops import plugins
from flows.cli import main
from tests.servers.warm_commands import run_and_end
for group in plugins.kinds("commands."):
    for target in plugins.targets(group).values():
        importlib.import_module(target.partition(":")[0])
gc.freeze()  # else each fork looks for garbage in all modules at its end, which takes a second
for number, arguments in enumerate(json.loads(sys.argv[1])):
    if (child := os.fork()) == 0:
        for descriptor in (1, 2):
            os.dup2(os.open(f"{sys.argv[2]}/{number}.{descriptor}", os.O_WRONLY | os.O_CREAT), descriptor)
        sys.argv = ["pairmill", *(os.fsdecode(word.encode("utf-8")) for word in arguments)]
        run_and_end(main)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # else the next fork writes it too
"""
"""Runs commands each in a fork, because most of the time of a command is that of its imports."""


def run(arguments, folder, forced):
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("LC_", "LANG", "PYTHON", "PREFECT", "MLFLOW"))}
    home = folder / "home"
    environment = kept | forced | {"PAIRMILL_HOME": str(home), "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, stdin=subprocess.DEVNULL, check=False
    )


def run_all(folder, keys, forced, names, outputs):
    """Return exit code, output and errors of each command."""
    commands = {n: [{"KEY": keys[0], "OTHER": keys[1]}.get(word, word) for word in COMMANDS[n]] for n in names}
    done = {}
    for name in REAL if len(names) > 3 else names:
        ended = run(["-m", "flows.cli", *commands.pop(name)], folder, forced)
        done[name] = ended.returncode, *(text.decode("utf-8", "replace") for text in (ended.stdout, ended.stderr))
    if not commands:
        return done
    ended = run(["-c", EACH, json.dumps(list(commands.values())), str(outputs)], folder, forced)
    assert ended.returncode == 0, ended.stderr
    for number, (name, code) in enumerate(zip(commands, ended.stdout.split(), strict=True)):
        texts = [(outputs / f"{number}.{descriptor}").read_bytes().decode("utf-8", "replace") for descriptor in (1, 2)]
        done[name] = int(code), *texts
    return done


@pytest.mark.parametrize(
    ("name", "forced", "commands"),
    [
        pytest.param(NAME, FORCED_ASCII | STRICT_ASCII, list(COMMANDS), id="ASCII", marks=pytest.mark.long),
        pytest.param(NAME, FORCED_ASCII, ["runs", "diff"], id="the locale C"),
        pytest.param(NAME, STRICT_ASCII, ["runs", "doctor"], id="ASCII output"),
        pytest.param(NAME, LATIN, ["runs", "takedown"], id="Latin-1 output"),
        pytest.param(
            os.fsdecode("hömé-".encode() + b"\xff\xfe"),
            FORCED_ASCII | STRICT_ASCII,
            ["runs", "show a run", "show a key", "trace", "diff", "doctor", "run a wrong config", "takedown"],
            id="a path that no encoding has",
        ),
    ],
)
def test_no_command_ends_in_a_traceback(name, forced, commands, tmp_path):
    (tmp_path / "new").mkdir()
    keys = prepare(tmp_path / "new")  # where no library refuses the path
    if "gc" in commands:  # which starts the servers
        for server in ("prefect", "mlflow"):
            put_database(server, tmp_path / "new" / "home" / "services" / server)
    folder = (tmp_path / "new").rename(tmp_path / name)
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    try:
        done = run_all(folder, keys, forced, commands, outputs)
    finally:
        if "gc" in commands:
            assert run(["-m", "flows.cli", "down"], folder, forced).returncode == 0
    wrong = {n: d for n, d in done.items() if "Traceback" in d[2] or d[0] not in (0, 2, 3, 75) or not (d[1] or d[2])}
    assert wrong == {}
    assert done["runs"][0] == 0
    assert "run-1" in done["runs"][1]
    if "diff" in done:
        assert done["diff"][0] == (0 if "diff" in plugins.targets("commands.look") else 2)
    if "run a wrong config" in done and name != NAME:
        assert "has bytes that are not UTF-8" in done["run a wrong config"][2]
    if "runs --json" in done:
        assert [run["run_id"] for run in json.loads(done["runs --json"][1])] == ["run-1"]
