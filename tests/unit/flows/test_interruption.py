"""A run ends after Ctrl-C or SIGTERM, whatever it is doing. Each case is a process that would else run for ten minutes."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from dataops.home import CHECKOUT

START = """
import subprocess, sys, time
from flows.interruption import Interruption
from tasks.engine.process_guard import finish_first
interruption = Interruption("demo-1", "pairmill rerun demo-1", as_json="--json" in sys.argv)
interruption.install()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
def ready():
    print(child.pid, flush=True)
def wait():  # a signal that arrives just before a sleep does not end it
    for _ in range(6000):
        time.sleep(0.1)
"""
OBEDIENT = """
try:
    ready()
    wait()
except KeyboardInterrupt:
    child.kill()
    interruption.report()
    sys.exit(interruption.exit_code)
"""
HANGING = """
class Resource:
    def __del__(self):  # Python ignores and prints an exception here
        ready()
        wait()
Resource()
wait()
"""
CHECKPOINT = """
try:
    ready()
    wait()
except KeyboardInterrupt:
    with finish_first():
        time.sleep(2.5)
        print("written", flush=True)
    wait()
"""
STUCK = """
try:
    ready()
    wait()
except KeyboardInterrupt:
    print("finishing", flush=True)
    with finish_first():
        wait()
"""


def run(code, stop, *arguments):
    """Start the code, stop it when it is ready, and return its exit code and its output; its child must have ended."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-c", START + code, *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        child = psutil.Process(int(process.stdout.readline()))
        stop(process)
        out, err = process.communicate()
    child.wait(timeout=100)
    return process.returncode, out, err


def send(number):
    return lambda process: process.send_signal(number)


def send_twice(process):
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "finishing\n"
    process.send_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("code", "number", "exit_code"),
    [(HANGING, signal.SIGINT, 130), (OBEDIENT, signal.SIGTERM, 75), (OBEDIENT, signal.SIGHUP, 75)],
)
def test_a_signal_ends_the_run_with_its_id_and_the_command_that_continues_it(code, number, exit_code):
    returned, _, err = run(code, send(number))
    cause = "Ctrl-C" if number == signal.SIGINT else number.name
    assert returned == exit_code
    assert err == f"demo-1: stopped by {cause}; finished work is kept\n`pairmill rerun demo-1` continues this run\n"


def test_a_checkpoint_is_finished_first():
    returned, out, _ = run(CHECKPOINT, send(signal.SIGINT))
    assert (returned, out) == (130, "written\n")


def test_a_second_signal_ends_the_run_at_once():
    assert run(STUCK, send_twice)[0] == 130


def test_json_has_the_run_and_the_error():
    _, out, _ = run(OBEDIENT, send(signal.SIGINT), "--json")
    error = {"type": "Interrupted", "message": "stopped by Ctrl-C; finished work is kept", "exit_code": 130}
    assert json.loads(out) == {"run_id": "demo-1", "error": error}
