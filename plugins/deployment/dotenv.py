"""`python -m plugins.deployment.dotenv`: writes infra/.env from infra/.env.example, with a secret for each empty value."""

import os
import re
import secrets
import sys
from pathlib import Path

from dataops.home import CHECKOUT

EXAMPLE = CHECKOUT / "infra" / ".env.example"


def fill_secrets(example: str) -> str:
    """Return the text with 32 random URL-safe characters after each `NAME=` without a value."""
    return re.sub(r"^([A-Z_]+)=$", lambda match: f"{match[1]}={_secret()}", example, flags=re.MULTILINE)


def _secret() -> str:
    # A letter comes first, because some programs would read a value with a leading `-` as an option.
    return secrets.choice("abcdefghijklmnopqrstuvwxyz") + secrets.token_urlsafe(24)[1:]


def main(target: Path | None = None) -> int:
    """Write the file, readable only by its owner; an existing one is kept, since servers may use its passwords."""
    path = target or EXAMPLE.with_name(".env")
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        sys.stderr.write(
            f"{path} exists and was not changed, since servers may use its passwords; delete it to write a new one\n"
        )
        return 2
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(fill_secrets(EXAMPLE.read_text("utf-8")))
    sys.stderr.write(f"wrote {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
