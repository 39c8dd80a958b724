import os
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
COMMAND = """
import json, os, signal, socket, sys, time, types
from flows.cli import main
def run_command(arguments):
    {work}
    return 5
sys.modules["flows.app"] = types.SimpleNamespace(run_command=run_command, use_process_settings=lambda: None)
main()
"""
INTERRUPTS = {
    "imports of the module": INTERRUPT_IMPORT + "runpy.run_module('flows.cli', run_name='__main__')",
    "imports of the console script": INTERRUPT_IMPORT + "from flows.cli import main; main()",
    "work": COMMAND.format(work="os.kill(os.getpid(), signal.SIGINT); time.sleep(60)"),
}
PRINTS = {
    "buffered": "sys.stdout.write('x')",
    "flushed": "print('x' * 100_000, flush=True)",
    "by Rich": "from rich.console import Console; Console().print('x')",
    "errors by Rich": "from rich.console import Console; Console(stderr=True).print('x'); print('x')",
}
UNWRITTEN = "pairmill: cannot write the output: No space left on device\n"


def start(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE):
    """Run code in a process as a user would, with buffered output."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": ""}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, text=True, check=False, stdout=stdout, stderr=stderr)


@pytest.mark.parametrize("kind", INTERRUPTS)
def test_interrupt_prints_no_traceback(kind):
    done = start(INTERRUPTS[kind])
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "pairmill: interrupted\n")


def test_closed_output_is_output_that_cannot_be_written():
    done = start("import os, sys\nos.close(1)\nsys.stdout = None" + COMMAND.format(work=PRINTS["buffered"]))
    assert (done.returncode, done.stderr) == (75, "pairmill: cannot write the output: Bad file descriptor\n")


@pytest.mark.parametrize(("full", "code", "message"), [(False, 141, ""), (True, 75, UNWRITTEN)])
@pytest.mark.parametrize("kind", PRINTS)
def test_output_that_cannot_be_written_ends_the_command_without_a_traceback(kind, full, code, message):
    reader, writer = os.pipe()
    os.close(reader)
    if full:
        writer = os.open("/dev/full", os.O_WRONLY)
    done = start(COMMAND.format(work=PRINTS[kind]), writer, writer if "errors" in kind else subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (code, None if "errors" in kind else message)


def test_command_that_exits_by_itself_has_its_own_code():
    assert start(COMMAND.format(work="sys.exit(3)")).returncode == 3


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
