"""Write docs/reference/exit-codes.md from dataops/errors.py."""

from collections.abc import Iterator

from dataops import errors
from docs.tools.markdown import format_table

_INTRO = """# Exit codes

Every command ends with one of these codes. `--json` prints the error as
`{"error": {"type", "message", "exit_code"}}`.

```text
pairmill run mine.toml; case $? in 0) echo done;; 75) echo "run it again";; esac
```
"""
_MEANINGS = {
    0: ("Done.", ""),
    1: ("Another error, such as a job that failed or an exception.", "Read the message and the log that it names."),
    2: (
        "The config or the command line is wrong, a source or host that the config names cannot be used, or a file or "
        "folder that a command is to write cannot be written, such as a store without the permission.",
        "Correct what the message lists, then start a new run. A retry would end in the same way.",
    ),
    3: (
        "Data violates the contract between stages, a stage dropped all its rows, or a [check](../dataset/checks.md) "
        "blocks the dataset.",
        "Read the message; it names a check with its figure and bound. `pairmill run --force STAGE` rebuilds a damaged "
        "snapshot.",
    ),
    4: ("The training diverged.", "Lower `train.lr`, or raise `train.warmup`; the message names the step."),
    5: (
        "The gate refused the model. The version is registered without the alias `champion`.",
        "Read the evaluation, or override with `pairmill promote`.",
    ),
    75: (
        "A network, storage or server error that a retry may solve, such as a full disk; "
        "standard output cannot be written or is closed; or another run took over the snapshot.",
        "Do what the message names. `pairmill rerun RUN` continues where the run stopped.",
    ),
    130: (
        "Interrupted by Ctrl-C. SIGTERM, as from a scheduler, and SIGHUP, as of a closed terminal, end a run with 75.",
        "`pairmill rerun RUN` continues the run.",
    ),
    141: (
        "Nobody reads the output any more, as in `pairmill runs | head -1`. A run that has begun still ends first.",
        "",
    ),
}
"""Meaning and remedy of each exit code."""


def render() -> str:
    """Return the page."""
    raised = {code: ", ".join(f"`{name}`" for name in sorted(names)) for code, names in _errors_by_code().items()}
    unknown = raised.keys() - _MEANINGS.keys()
    if unknown:
        raise ValueError(f"exit codes without a meaning in this module: {sorted(unknown)}")
    rows = [(str(code), *texts, raised.get(code, "")) for code, texts in _MEANINGS.items()]
    return f"{_INTRO}\n{format_table(('code', 'meaning', 'what to do', 'errors'), rows)}"


def _errors_by_code() -> dict[int, set[str]]:
    """Return the names of the error classes of each exit code."""
    found: dict[int, set[str]] = {}
    for error in _subclasses(errors.PairmillError):
        found.setdefault(error.exit_code, set()).add(error.__name__)
    return found


def _subclasses(error: type[errors.PairmillError]) -> Iterator[type[errors.PairmillError]]:
    for derived in error.__subclasses__():
        if derived.__module__ == errors.__name__:
            yield derived
        yield from _subclasses(derived)
