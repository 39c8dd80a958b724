"""The URL of the host of a key directory, which the header Signature-Agent has."""

from typing import Literal
from urllib.parse import urlsplit

AgentForm = Literal["dictionary", "string"]


def parse_agent(value: str) -> str:
    """Return the origin of a key directory: https, a host and perhaps a port, in lower case.

    Raises: ValueError.
    """
    try:
        parts = urlsplit(value.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    is_origin = parts.path in ("", "/") and not (parts.query or parts.fragment) and "@" not in parts.netloc
    is_plain = host.isascii() and all(character.isalnum() or character in ".-" for character in host)
    if parts.scheme != "https" or not host or not is_plain or not is_origin:
        raise ValueError("must be https:// and a host, without a path, such as https://crawler.example.org")
    return f"https://{host}" + (f":{port}" if port not in (None, 443) else "")
