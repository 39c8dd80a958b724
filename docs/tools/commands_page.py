"""Write docs/reference/commands.md from the help of the command."""

import re
import sys
from unittest.mock import patch

from docs.tools.markdown import fill
from flows.app import make_app

_INTRO = """# Commands

`pairmill --help` lists the commands, and `pairmill COMMAND --help` the options of one. This page
has the same text. [Exit codes](exit-codes.md) has the meaning of each exit code.
"""


def render() -> str:
    """Return the page: a list of all commands, and a section for each."""
    with patch.object(sys, "argv", ["pairmill"]):  # cyclopts puts the name of the running program into the usage
        text = make_app().generate_docs(output_format="markdown")
    listed, _, sections = text.partition("**Commands**:")[2].partition("\n## ")
    sections = re.sub(r" \*\[default: (?:\(\)|False)\]\*", "", f"## {sections}")
    listed = listed.replace("(#pairmill-install-completion)", "(#pairmill---install-completion)")  # as in its heading
    sections = re.sub(r"^#{2,6} (?=pairmill )", "## ", sections, flags=re.MULTILINE)
    lines = f"{_INTRO}\n{listed.strip()}\n\n{sections.strip()}".splitlines()
    return "\n".join(fill(line, "  " if line.startswith("* ") else "") for line in lines) + "\n"
