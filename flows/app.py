"""The command `pairmill`: it finds the command that was typed, runs it, and turns errors into exit codes.

Commands are registered by entry points in the groups `pairmill.commands.GROUP`, those of the core too (pyproject.toml). The
name is that of the command, `config.show` that of a subcommand; the object is its function, with the options as its
parameters. Only the module of the command that runs is imported.

Exit codes: 0 done; 2 config or usage; 3 data contract broken; 4 training diverged; 5 gate refused the model;
75 retryable (network, storage, pre-emption); 1 anything else.
"""

import ast
import importlib.util
import json as json_
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cyclopts import App, CycloptsError, Group, Parameter

from dataops import plugins
from dataops.command_name import COMMANDS, format_message, name_command, set_command_name
from dataops.errors import ConfigError, PairmillError, writing
from dataops.formatting import did_you_mean
from dataops.process import use_utf8
from infra.local import services
from tasks.engine.process_guard import guard_process

# Prefect reads these when it is imported; the imports above do not import it.
LOGGING = {
    "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL": "WARNING",
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "WARNING",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FORMAT": "%(asctime)s %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(asctime)s %(message)s",
}

GROUPS = ("start", "run", "look", "models", "operate")
"""The groups of commands, in the order of the help; those that only plugins have follow."""


def make_app(typed: str | None = None, *, listing: bool = False) -> App:
    """Return the command line with all commands whose modules exist.

    Args:
        typed: the name of the command that runs, or "". The subcommands of another command that is a function too are left
            out, since adding them imports it. None: all are there.
        listing: read the first line of each command's docstring from its file, for the list of all commands. Without it,
            the help of a command has its whole docstring, and its list of subcommands their first lines.
    """
    app = App(
        name="pairmill",
        help="Mill web archives into a registered CLIP model: crawl, filter, train, evaluate, register.",
        version=lambda: version("pairmill"),
        version_flags=[] if typed else ["--version"],
        default_parameter=Parameter(negative_iterable=()),
        suppress_keyboard_interrupt=False,
        group_commands=Group("Commands", sort_key=len(_kinds())),
        help_format="plaintext" if listing else None,
    )
    app.register_install_completion_command(
        help="Install completion of commands and options for the current shell (bash, zsh or fish)."
    )
    for number, kind in enumerate(_kinds()):
        group = Group(kind.removeprefix(COMMANDS).capitalize(), sort_key=number)
        targets = plugins.targets(kind)
        for name, target in targets.items():
            first, _, second = name.partition(".")
            line = _first_line(target) if listing or (second and first == typed) else None
            if not second:
                app.command(target, name=first, group=group, help=line)
                continue
            if typed is not None and first in targets and first != typed.partition(".")[0]:
                continue
            if first not in app:
                app.command(App(name=first, group=group, help=_first_line(target.partition(":")[0])))
            app[first].command(target, name=second, help=line)
    return app


def _kinds() -> list[str]:
    order = [COMMANDS + group for group in GROUPS]
    return sorted(plugins.kinds(COMMANDS), key=lambda kind: order.index(kind) if kind in order else len(order))


def _first_line(target: str) -> str:
    """Return the first line of the docstring of a module, or of a function in it, without importing the module."""
    module, _, function = target.partition(":")
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return ""
    tree = _parse(spec.origin)
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function]
    return (ast.get_docstring(found[0] if found else tree) or "").partition("\n")[0]


@cache
def _parse(path: str) -> ast.Module:
    return ast.parse(Path(path).read_bytes())


def _find_command(arguments: Sequence[str]) -> tuple[str, str] | None:
    """Return the kind and the name of the command that is typed; None if it is the help that lists commands.

    Raises: ConfigError if there is no such command.
    """
    if not arguments or arguments[0].startswith("-"):
        return None
    known = {name: kind for kind in _kinds() for name in plugins.names(kind)}
    for name in (".".join(arguments[:2]), arguments[0]):
        if name in known:
            return known[name], name
    commands = {name.partition(".")[0] for name in known}
    if arguments[0] in commands:
        return None
    suggestion = did_you_mean(arguments[0], commands) or "; `pairmill --help` lists all"
    raise ConfigError(f"there is no command {arguments[0]!r}{suggestion}")


def _run(arguments: list[str]) -> Any:
    """Run the command that is typed and return its result.

    Raises: ConfigError if its options are wrong, it is not installed, or it lacks a package.
    """
    kind, name = _find_command(arguments) or ("", "")
    with plugins.naming_packages(kind, name) if name else nullcontext():
        if name:
            plugins.find(kind, name)
        app = make_app(name, listing=not name)
        try:
            return app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        except CycloptsError as error:
            raise ConfigError(
                f"{error} `pairmill {name.replace('.', ' ') or 'COMMAND'} --help` lists the options"
            ) from None


def use_process_settings() -> None:
    """Use UTF-8, for which the process may start again, and name the command as the user typed it."""
    use_utf8()
    set_command_name()


def run_command(arguments: list[str]) -> int:
    """Run one command line and return its exit code; a deliberate error is printed as one message on standard error."""
    os.environ.update(LOGGING | os.environ)
    guard_process()
    try:
        services.apply_environment()
        with writing():
            result = _run(arguments)
    except PairmillError as error:
        message = name_command(str(error))
        sys.stderr.write(format_message(f"pairmill: {message}\n", "ERROR"))
        if "--json" in arguments:
            failure = {"type": type(error).__name__, "message": message, "exit_code": error.exit_code}
            sys.stdout.write(json_.dumps({"error": failure}) + "\n")
        return error.exit_code
    return result if isinstance(result, int) else 0
