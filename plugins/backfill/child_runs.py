"""Run `pairmill run` in a process of its own, which ends with this one, and pass on what it prints."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataops.escaping import escape_controls
from dataops.home import CHECKOUT

END_SECONDS = 20.0
"""Seconds that the processes may take to end after a signal; a run itself ends within two."""
KILLED = 75
"""Exit code of a run that a signal ended: a rerun may succeed."""


@dataclass
class RunResult:
    """The end of one run."""

    exit_code: int
    output: dict[str, Any] = field(default_factory=dict)
    """What `pairmill run --json` printed."""

    @property
    def error(self) -> str:
        """The message of the error; empty after success."""
        return str(self.output.get("error", {}).get("message", "")) if self.exit_code else ""

    def key_of(self, stage: str) -> str | None:
        """Return the key of the snapshot of a stage, if the run has come to it."""
        return next((one["key"] for one in self.output.get("stages", ()) if one["stage"] == stage), None)


class ChildRuns:
    """The runs that work now. Ctrl-C reaches them through `end`, since each is in a session of its own."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._ended = False

    def run(self, config: Path, settings: Sequence[str], until: str, prefix: str) -> RunResult:
        """Run a config up to a stage; each line on standard error gets the prefix, if there is one."""
        options = [option for setting in settings for option in ("--set", setting)]
        run = ["run", str(config), *options, "--until", until, "--json"]
        command = [sys.executable, "-P", "-m", "plugins.backfill.child", str(os.getpid()), *run]
        path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONUTF8": "1"}
        with self._lock:
            if self._ended:
                return RunResult(KILLED)
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if prefix else None,
                encoding="utf-8",
                errors="replace",
                env=environment,
                start_new_session=True,
            )
            self._running.add(process)
        try:
            with process:
                output = _read_output(process, prefix)
                code = process.wait()
        finally:
            with self._lock:
                self._running.discard(process)
        return RunResult(code if code >= 0 else KILLED, output)

    def end(self, number: signal.Signals) -> None:
        """Start no further run, send the signal to all that work, and wait; kill what does not end."""
        with self._lock:
            self._ended = True
            running = list(self._running)
        for process in running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        for process in running:
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def _read_output(process: subprocess.Popen[str], prefix: str) -> dict[str, Any]:
    """Pass on the lines of standard error, and return the JSON object that is the last line of standard output."""

    def copy() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            sys.stderr.write(escape_controls(f"{prefix}{line.rstrip()}\n"))

    copier = threading.Thread(target=copy, name="stderr", daemon=True)
    if prefix:
        copier.start()
    assert process.stdout is not None
    lines = process.stdout.read().splitlines()
    if prefix:
        copier.join()
    with suppress(ValueError, IndexError):
        found = json.loads(lines[-1])
        return found if isinstance(found, dict) else {}
    return {}
