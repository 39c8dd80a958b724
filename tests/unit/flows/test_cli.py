import os
import signal
import subprocess
import sys
import tomllib

import pytest

from dataops.home import CHECKOUT
from tests.python_code import run_python

INTERRUPT_IMPORT = """
import os, runpy, signal, sys
class Interrupter:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("flows.app", "flows.commands")):
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupter())
sys.argv = ["pairmill", "runs"]
"""
STARTS = {
    "module": "runpy.run_module('flows.cli', run_name='__main__')",
    "console script": "from flows.cli import main; main()",
}
COMMAND = """
import json, os, signal, socket, sys, time, types
from flows.cli import main
def run_command(arguments):
    {work}
    return 5
sys.modules["flows.app"] = types.SimpleNamespace(run_command=run_command, use_process_settings=lambda: None)
main()
"""
PRINTS = {
    "buffered": "sys.stdout.write('x')",
    "flushed": "print('x' * 100_000, flush=True)",
    "by Rich": "from rich.console import Console; Console().print('x')",
    "errors by Rich": "from rich.console import Console; Console(stderr=True).print('x'); print('x')",
}


def start(code, **options):
    """Run code in a process as a user would, with buffered output."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": ""}
    command = [sys.executable, "-c", code]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.run(command, env=environment, text=True, check=False, **options)


@pytest.mark.parametrize("way", STARTS)
def test_interrupt_while_python_imports_the_command_prints_no_traceback(way):
    done = start(INTERRUPT_IMPORT + STARTS[way])
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "pairmill: interrupted\n")


def test_interrupt_of_a_command_prints_no_traceback():
    done = start(COMMAND.format(work="os.kill(os.getpid(), signal.SIGINT); time.sleep(60)"))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "pairmill: interrupted\n")


@pytest.mark.parametrize("kind", PRINTS)
def test_output_without_a_reader_ends_the_command_quietly(kind):
    reader, writer = os.pipe()
    os.close(reader)
    done = start(COMMAND.format(work=PRINTS[kind]), stdout=writer, **({"stderr": writer} if "errors" in kind else {}))
    os.close(writer)
    assert (done.returncode, done.stderr or "") == (128 + signal.SIGPIPE, "")


def test_entry_of_the_console_script_imports_no_dependency():
    scripts = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"pairmill": "pairmill.launcher:main"}
    imports = "import pairmill.launcher, flows.cli"
    done = start(f"import sys; old = set(sys.modules); {imports}; print(*sorted(set(sys.modules) - old))")
    heavy = {name.partition(".")[0] for name in done.stdout.split()} - sys.stdlib_module_names
    assert heavy == {"pairmill", "flows"}
    assert not {"json", "subprocess", "asyncio", "http", "importlib.metadata"} & {*done.stdout.split()}


REGISTERING = """
import atexit, sys, types
from pairmill.launcher import main
class Kept:
    def __del__(self):
        print("the interpreter ends")
kept = Kept()
def run_command(arguments):
    atexit.register(print, "registered")
    return 5
sys.modules["flows.app"] = types.SimpleNamespace(run_command=run_command, use_process_settings=lambda: None)
main()
"""


def test_command_ends_after_what_libraries_registered_and_before_its_interpreter():
    """A thread of Arrow that frees bytes of Python aborts a process whose interpreter ends."""
    done = run_python(REGISTERING, exit_code=5)
    assert (done.stdout, done.stderr) == ("registered\n", "")
