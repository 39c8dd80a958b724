"""The messages of a command on standard error."""

import json
import os
import time

from dataops.command_name import name_command
from dataops.escaping import escape_controls
from dataops.redaction import redact


def logs_json() -> bool:
    """Return whether PAIRMILL_LOG_FORMAT makes log lines JSON objects."""
    return os.environ.get("PAIRMILL_LOG_FORMAT", "").strip().lower() == "json"


def format_message(text: str, level: str = "INFO") -> str:
    """Return lines for standard error: redacted, escaped, with the typed command; or a JSON object as Prefect logs it."""
    text = escape_controls(name_command(redact(text)))
    fields = {"name": "pairmill", "levelname": level, "msg": text.strip(), "created": time.time()}
    return f"{json.dumps(fields)}\n" if logs_json() else text
