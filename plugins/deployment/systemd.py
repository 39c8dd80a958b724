"""Prints a systemd service that keeps the servers and workers of this project running.

It is `python -m plugins.deployment.systemd [OPTIONS]`. The options are those of `pairmill up --worker`, such as --pool and
--gpus. docs/operate/service.md has the steps.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from dataops.errors import ConfigError
from dataops.home import CHECKOUT, home

UNIT = Path(__file__).with_name("pairmill.service")
PLAIN = re.compile(r"[\w./@+,:~-]+")
"""Words that mean the same in every setting of a unit."""


def render_unit(options: Sequence[str] = ()) -> str:
    """Return the unit for the current folder and its home. Raises: ConfigError if a unit cannot name a path."""
    paths = {"folder": Path.cwd(), "home": home(), "checkout": CHECKOUT, "python": sys.executable}
    for word in (*map(str, paths.values()), *options):
        if not PLAIN.fullmatch(word):
            raise ConfigError(f"{word!r} has characters with a meaning in a systemd unit; use another folder or name")
    return UNIT.read_text("utf-8").format(**paths, options=" ".join(options))


if __name__ == "__main__":
    sys.stdout.write(render_unit(sys.argv[1:]))
