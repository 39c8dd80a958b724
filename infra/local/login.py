"""The login of this home's Prefect server, without which any web page in the user's browser could use its API.

It is a random string in a file that only this user can read. The server gets it in its environment,
and so do clients of that server; the Prefect UI requires it once. It is in no command line and no
log.
"""

import base64
import os
import secrets
from pathlib import Path

from dataops.home import home

CLIENT_LOGIN, SERVER_LOGIN = "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"
"""Environment variables of Prefect's clients and of its server."""


def login_file() -> Path:
    """Return the path of the file that holds the login."""
    return home() / "prefect-login"


def read_login() -> str | None:
    """Return the login, or None if there is none yet."""
    try:
        return login_file().read_text("ascii").strip() or None
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def write_new_login() -> str:
    """Make a new random login and write it into its file, atomically and readable by this user only."""
    login = f"pairmill:{secrets.token_urlsafe(24)}"
    write_secret(login_file(), login)
    return login


def write_secret(file: Path, secret: str) -> None:
    """Write a secret into a file, atomically and readable by this user only."""
    temporary = file.with_name(f"{file.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.touch(mode=0o600, exist_ok=False)  # before it is written, so that nobody else can read it at any time
    temporary.write_text(secret + "\n", "ascii")
    temporary.replace(file)


def server_environment(*, keep: bool) -> dict[str, str]:
    """Return the variables that give the Prefect server its login, a new one unless `keep` is set and there is one."""
    login = (read_login() if keep else None) or write_new_login()
    # The server's own services are clients of its API.
    return {SERVER_LOGIN: login, CLIENT_LOGIN: login}


WEBHOOK_KEY = "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"
"""Environment variable of MLflow's server: the key with which it encrypts the secrets of its webhooks in its database.

Without a key, MLflow makes one for each of its processes: after a restart it could not read the
secrets, and would call no webhook.
"""


def webhook_key_file() -> Path:
    """Return the path of the file that holds the key, which only this user can read."""
    return home() / "mlflow-webhook-key"


def webhook_environment(*, keep: bool) -> dict[str, str]:
    """Return the variable that gives the MLflow server the key: that of the environment, else that of the file.

    Args:
        keep: without effect, because the database has secrets that only this key decrypts.
    """
    if key := os.environ.get(WEBHOOK_KEY):
        return {WEBHOOK_KEY: key}
    if not webhook_key_file().exists():
        write_secret(webhook_key_file(), base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())
    return {WEBHOOK_KEY: webhook_key_file().read_text("ascii").strip()}
