"""Commands as functions: each runs `pairmill COMMAND --json` in a process of its own and returns what that prints."""

import json
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from pairmill.launcher import HERE


class CommandError(Exception):
    """A command failed. `exit_code` is that of docs/reference/exit-codes.md; the message names the remedy."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


def runs() -> list[dict[str, Any]]:
    """Return the records of the project's runs, oldest first. Raises: CommandError."""
    return run_command("runs")


def run(config: str | Path, *, until: str | None = None, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Run a config; return the record of the run. Progress is printed on standard error.

    Args:
        config: a TOML file.
        until: the last stage to run.
        settings: config keys with dots, and their values: `{"train.epochs": 3}`.

    Raises: CommandError.
    """
    return run_command("run", str(config), *_options(until, settings))


def plan(config: str | Path, *, until: str | None = None, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what a run of a config would make, why, and an estimate of its rows and time; arguments as of `run`.

    Raises: CommandError.
    """
    return run_command("plan", str(config), *_options(until, settings))


def trace(what: str) -> dict[str, Any]:
    """Return where a pair, an image, a dataset or a model comes from, as `pairmill trace`. Raises: CommandError."""
    return run_command("trace", what)


def diff(a: str, b: str) -> dict[str, Any]:
    """Return what differs between two datasets, or between two registered models. Raises: CommandError."""
    return run_command("diff", a, b)


def run_command(*arguments: str) -> Any:
    """Run a command with --json in the working directory and return the JSON value that it prints.

    Raises: CommandError.
    """
    code = f"import sys; sys.path.insert(0, {str(HERE.parent)!r}); from pairmill.launcher import main; main()"
    command = [sys.executable, "-P", "-c", code, *arguments, "--json"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, encoding="utf-8") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        last: list[str] = []
        printing = threading.Thread(target=_print_lines, args=(process.stderr, last))
        printing.start()
        try:
            printed = process.stdout.read()
        except BaseException:
            process.terminate()  # as Ctrl-C in a terminal: a run can be continued
            raise
        printing.join()
    if process.returncode:
        raise CommandError(_error_of(printed) or "\n".join(last[-5:]), process.returncode)
    return json.loads(printed)


def _options(until: str | None, settings: Mapping[str, Any] | None) -> Sequence[str]:
    options = ["--until", until] if until else []
    for key, value in (settings or {}).items():
        options += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    return options


def _print_lines(source: IO[str], lines: list[str]) -> None:
    """Print each line on standard error, which a notebook shows, and keep it."""
    for line in source:
        lines.append(line.rstrip())
        sys.stderr.write(line)
        sys.stderr.flush()


def _error_of(printed: str) -> str:
    try:
        return str(json.loads(printed)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ""
