"""Installs packages for the Makefile: `python infra/install.py ARGUMENTS`, which are those of `uv pip install`.

uv installs in a fraction of pip's time, but does not read pip's settings. This script, which uses
only the standard library because nothing is installed yet, hands them over, so that an index or a
certificate that pip is configured with holds for uv too.
"""

import ast
import os
import subprocess
import sys

SETTINGS = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
}
"""Settings of pip, and the environment variables of uv that mean the same."""
SECTIONS = ("global", "install", ":env:")
"""Sections of `pip config list`; a later one takes precedence."""


def read_settings(listing: str) -> dict[str, list[str]]:
    """Return the values of each setting in the output of `pip config list`."""
    found: dict[str, list[str]] = {}
    for section in SECTIONS:
        for line in listing.splitlines():
            name, _, value = line.partition("=")
            if name.startswith(f"{section}."):
                found[name.removeprefix(f"{section}.")] = str(ast.literal_eval(value)).split()
    return found


def translate_settings(settings: dict[str, list[str]]) -> tuple[list[str], dict[str, str]]:
    """Return options and environment variables with which uv does what pip does with the settings."""
    # An option, because uv ignores UV_CONSTRAINT where the Makefile gives a file of its own; pip reads both.
    options = [word for file in settings.get("constraint", []) for word in ("--constraint", file)]
    options += ["--no-index"] if settings.get("no-index", [""])[0].lower() in ("1", "on", "true", "yes") else []
    variables = {
        variable: ("," if variable == "UV_FIND_LINKS" else " ").join(settings[name])
        for name, variable in SETTINGS.items()
        if name in settings
    }
    # pip takes the newest version of all its indexes, uv that of the first index which has the package.
    return options, variables | ({"UV_INDEX_STRATEGY": "unsafe-best-match"} if "UV_INDEX" in variables else {})


def install(command: list[str], environment: dict[str, str]) -> int:
    """Run uv and return its exit code. Its list of all packages that it adds and removes is not printed."""
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, errors="replace") as uv:
        assert uv.stderr is not None
        for line in uv.stderr:
            if not line.startswith((" + ", " - ")):
                sys.stderr.write(line)
                sys.stderr.flush()
    return uv.returncode


def main(arguments: list[str]) -> int:
    """Install uv with pip, and the packages with uv, into this Python's environment."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    constraints = [word for word in arguments if word.startswith("--constraint=")]
    if code := subprocess.run([*pip, "install", "--quiet", *constraints, "uv"], check=False).returncode:
        return code
    listing = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=True).stdout
    options, variables = translate_settings(read_settings(listing))
    uv = [sys.executable, "-m", "uv", "pip", "install", "--python", sys.executable]
    return install([*uv, *options, *arguments], variables | os.environ)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run the same make command again: it continues\n")
        sys.exit(130)
