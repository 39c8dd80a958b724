"""Write the outputs and pictures that the pages and the notebook show: python -m docs.tools.outputs [FOLDER].

FOLDER is a folder in which `pairmill demo` ran; the default is the checkout. A page marks a block with the command on the
line above it::

    <!-- output: pairmill show $PACK | head -12 -->
    ```text
    $ pairmill show 99239a1429cdbc1f
    ...
    ```

The command may use $RUN, $MODEL, $STORE, and the key of each stage ($EXTRACT, $FILTER, ...) of the newest completed demo.
The command must change nothing. What follows ` | ` selects lines and is not shown. `output demo-only:` marks a command
that the small run of the tests cannot repeat.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

from dataops.home import CHECKOUT
from docs.tools.links import pages
from docs.tools.notebook import NOTEBOOK
from docs.tools.pictures import write_pictures

_BLOCK = re.compile(
    r"(?P<mark><!-- output(?P<demo_only> demo-only)?: (?P<command>[^\n]*) -->\n(?P<fence>```+)\w*\n)"
    r"(?P<content>.*?)(?P<end>^(?P=fence)$)",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A block that shows the output of a command."""

    command: str
    """Command line with variables, and perhaps a filter after ` | `."""
    demo_only: bool
    content: str
    """Lines of the block: `$ ` and the command, then its output."""

    @property
    def shown(self) -> str:
        """The command without the filter."""
        return self.command.split(" | ")[0]

    def arguments(self, variables: Mapping[str, str]) -> list[str]:
        """Return the words of the command with the values of its variables."""
        return shlex.split(Template(self.shown).substitute(variables))

    def labels(self) -> list[str]:
        """Return the lines of the output that hold no digit: titles, heads of columns, names of fields."""
        lines = (" ".join(line.split()) for line in self.content.splitlines()[1:])
        return [line for line in lines if line and not re.search(r"\d", line)]


def find_blocks(text: str) -> Iterator[Block]:
    """Yield the marked blocks of a page."""
    for found in _BLOCK.finditer(text):
        yield Block(found["command"], found["demo_only"] is not None, found["content"])


def fill_blocks(text: str, run: Callable[[str], str], variables: Mapping[str, str]) -> str:
    """Return a page whose marked blocks hold the outputs of their commands.

    Args:
        run: returns the output of a command line.
    """

    def fill(found: re.Match[str]) -> str:
        shown = Template(found["command"].split(" | ")[0]).substitute(variables)
        output = "\n".join(line.rstrip() for line in run(found["command"]).strip("\n").splitlines())
        return f"{found['mark']}$ {shown}\n{output}\n{found['end']}"

    return _BLOCK.sub(fill, text)


def read_variables(shown: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables of a run from the JSON value of `pairmill show RUN --json`."""
    keys = {str(stage["stage"]).upper(): str(stage["key"]) for stage in shown["stages"]}
    model = str(shown["model_version"]).removeprefix("models:/")
    store = str(Path(shown["stages"][0]["path"]).parents[1])
    return {"RUN": str(shown["run_id"]), "MODEL": model, "STORE": store, **keys}


def main() -> None:
    """Rewrite the blocks of all pages, and name the pages that changed."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else CHECKOUT).resolve()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    plain = {
        "PATH": path,
        "PAIRMILL_HOME": str(folder / ".pairmill"),
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "TERM": "dumb",
        "PYTHONPATH": str(CHECKOUT),
    }
    variables: dict[str, str] = {}

    def run(command: str) -> str:
        environment = {**os.environ, **plain, **variables}
        done = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode or not done.stdout.strip():
            sys.exit(f"{command}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout.replace(f"{folder}/", "")

    completed = [item for item in json.loads(run("pairmill runs --json")) if item["state"] == "completed"]
    demos = [item["run_id"] for item in completed if item["name"] == "demo" and item["model_version"]]
    if not demos:
        sys.exit(f"{folder}: no completed run of the demo; run `pairmill demo` there")
    variables |= read_variables(json.loads(run(f"pairmill show {demos[-1]} --json")))
    for page in pages():
        before = page.read_text(encoding="utf-8")
        after = fill_blocks(before, run, variables)
        if after != before:
            page.write_text(after, encoding="utf-8")
            sys.stdout.write(f"wrote {page.relative_to(CHECKOUT)}\n")
    write_pictures(folder, run, variables)
    run(f"python -m docs.tools.notebook {CHECKOUT / NOTEBOOK}")


if __name__ == "__main__":
    main()
