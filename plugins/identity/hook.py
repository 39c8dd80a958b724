"""The table `identity`, which `[download]` and `[source]` of `kind = "site"` have, and the signer that it configures."""

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from dataops.config import ConfigPath, FrozenModel
from dataops.plugins import require
from tasks.web.signing import Sign, Signer

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


class IdentityConfig(FrozenModel):
    """`[download.identity]`: sign each request, those for robots.txt and similar files too (docs/data/identity.md).

    A crawl without a table `identity` in `[source]` signs as the download does.
    """

    key_file: ConfigPath = Field(min_length=1)
    """File of the private key, which `pairmill identity create` makes. Each process reads it by this path, on each
    machine that downloads."""
    signature_agent: str
    """URL of the host of your key directory: https:// and a host name. Sites fetch its
    `/.well-known/http-message-signatures-directory`."""
    expires_after: int = Field(default=60, ge=1, le=86_400)
    """Seconds for which the signature of a request is valid. The shorter, the less a copied one is worth. The clock of this
    machine must be right."""
    agent_form: AgentForm = "dictionary"
    """Form of the header Signature-Agent. dictionary is that of the IETF's working group. string is that of the drafts
    before October 2025, which Cloudflare verifies."""

    @field_validator("signature_agent")
    @classmethod
    def _plain_agent(cls, value: str) -> str:
        return parse_agent(value)


class Identity(Signer):
    """Signs requests by Web Bot Auth, so that sites can verify who sent them (docs/data/identity.md)."""

    config, table, problem_key = IdentityConfig, "identity", "identity.key_file"

    def open(self, table: IdentityConfig, *, is_worker: bool = False) -> Sign:
        require(["http_message_signatures", "cryptography"], "identity", "download.identity")
        from plugins.identity.keys import RequestSigner, load_key

        key = load_key(Path(table.key_file), is_copy=is_worker)
        return RequestSigner(key, table.signature_agent, table.expires_after, table.agent_form).sign


IDENTITY = Identity()
