"""Makes infra/.env from infra/.env.example, with a random secret for every empty line: `python -m infra.dotenv`."""

import os
import re
import secrets
import sys
from pathlib import Path

EXAMPLE = Path(__file__).with_name(".env.example")


def fill_secrets(example: str) -> str:
    """The text with 32 random URL-safe characters behind every `NAME=` that stands empty."""
    return re.sub(r"^([A-Z_]+)=$", lambda match: f"{match[1]}={_secret()}", example, flags=re.MULTILINE)


def _secret() -> str:
    # Begins with a letter: a value that begins with `-` would be taken for an option somewhere.
    return secrets.choice("abcdefghijklmnopqrstuvwxyz") + secrets.token_urlsafe(24)[1:]


def main(target: Path | None = None) -> int:
    """Write the file for its owner alone; an existing one is kept, since servers may have been set up with it."""
    path = target or EXAMPLE.with_name(".env")
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        sys.stderr.write(f"{path} exists and is kept; servers may have been set up with its passwords\n")
        return 2
    with os.fdopen(handle, "w") as file:
        file.write(fill_secrets(EXAMPLE.read_text()))
    sys.stderr.write(f"wrote {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
