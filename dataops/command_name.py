"""The command as the user typed it, for messages that name a command, and the lines that a command writes itself.

Messages are written with the plain name: `pairmill rerun RUN`. They are stored so, in run records,
Prefect and MLflow, and `name_command` puts the typed command in its place where this process prints
them.
"""

import json
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from dataops import plugins
from dataops.escaping import escape_controls
from dataops.redaction import redact

NAME = "pairmill"
COMMANDS = "commands."
"""Prefix of the kinds of commands in dataops/plugins.py: the rest is the group in the help."""
_typed = NAME


def command_name() -> str:
    """Return the command as the user typed it, quoted for a shell; the plain name in a process that no command started."""
    return _typed


def name_command(text: str) -> str:
    """Return a message with the typed command in each `pairmill COMMAND` in it."""
    return text if _typed == NAME else _named().sub(lambda found: f"{found['before']}{_typed} ", text)


@cache
def _named() -> re.Pattern[str]:
    """Return the pattern of the plain name before a registered command."""
    commands = {name.partition(".")[0] for kind in plugins.kinds(COMMANDS) for name in plugins.names(kind)}
    return re.compile(rf"(?P<before>^|`|: |\n){NAME} (?=({'|'.join(sorted(commands))})(?![\w-]))")


def set_command_name() -> None:
    """Use the command line of this process for all messages from now on."""
    global _typed
    _typed = find_command_name(sys.orig_argv, sys.argv[0])


def find_command_name(command_line: Sequence[str], script: str) -> str:
    """Return what a user types to run this command again in the working directory.

    Args:
        command_line: of the process, with the interpreter and its options: `sys.orig_argv`.
        script: the file that runs: `sys.argv[0]`.
    """
    if "-m" in command_line:
        module = command_line.index("-m") + 1
        return shlex.join([_shorten(command_line[0]), *command_line[1 : module + 1]])
    found = _which(NAME)
    if found is not None and _is_same(found, script):
        return NAME
    if Path(script).suffix == ".py":
        return shlex.join([_shorten(command_line[0]), _shorten(script)])
    return shlex.quote(_shorten(script))


def _shorten(path: str) -> str:
    """Return a path below the working directory, or of a program on PATH, as short as a user would type it."""
    if (found := _which(os.path.basename(path))) is not None and found == path:  # noqa: PTH119
        return Path(path).name
    folder = Path.cwd()
    if Path(path).is_absolute() and Path(path).is_relative_to(folder):
        return str(Path(path).relative_to(folder))
    return path


def _which(name: str) -> str | None:
    """Return a program on the user's PATH; `uvx` and `uv run` put a folder before it, for their child alone."""
    paths = os.environ.get("PATH", "").split(os.pathsep)
    return shutil.which(name, path=os.pathsep.join(paths[1:] if "UV" in os.environ else paths))


def _is_same(found: str, script: str) -> bool:
    try:
        return os.path.samefile(found, script)  # noqa: PTH121
    except OSError:
        return False


def logs_json() -> bool:
    """Return whether PAIRMILL_LOG_FORMAT makes log lines JSON objects."""
    return os.environ.get("PAIRMILL_LOG_FORMAT", "").strip().lower() == "json"


def format_message(text: str, level: str = "INFO") -> str:
    """Return lines for standard error: redacted, escaped, with the typed command; or a JSON object as Prefect logs it."""
    text = escape_controls(name_command(redact(text)))
    if not logs_json():
        return text
    return json.dumps({"name": NAME, "levelname": level, "msg": text.strip(), "created": time.time()}) + "\n"
