"""The key with which this home's MLflow server encrypts the secrets of its webhooks in its database.

Without a key, MLflow makes one for each of its processes: after a restart it could not read the secrets, and would call no
webhook. The key is in a file that only this user can read, and in the environment of the server.
"""

import base64
import os
import secrets
from pathlib import Path

from dataops.home import home
from infra.local.login import write_secret

VARIABLE = "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"
"""Environment variable of MLflow's server."""


def key_file() -> Path:
    """Return the path of the file that holds the key."""
    return home() / "mlflow-webhook-key"


def server_environment(*, keep: bool) -> dict[str, str]:
    """Return the variable that gives the MLflow server the key: that of the environment, else that of the file.

    Args:
        keep: without effect, because the database has secrets that only this key decrypts.
    """
    if not os.environ.get(VARIABLE) and not key_file().exists():
        write_secret(key_file(), base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())
    return {VARIABLE: os.environ.get(VARIABLE) or key_file().read_text("ascii").strip()}
