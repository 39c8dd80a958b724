"""Defines the table `[download.identity]`, which `[source]` of `kind = "site"` has too."""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, field_validator

from dataops.config import problems_of
from tasks.web.identity.agent import AgentForm, parse_agent

if TYPE_CHECKING:
    from tasks.web.identity.signer import RequestSigner


class IdentityConfig(BaseModel):
    """`[download.identity]`: sign each request, so that sites can verify who sent it (Web Bot Auth, docs/identity.md)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key_file: str = Field(min_length=1)
    """File of the private key, which `pairmill identity create` makes. Each process reads it by this path, on each
    machine that downloads. A relative path starts at the current folder."""
    signature_agent: str
    """URL of the host of your key directory: https:// and a host name. Sites fetch its
    `/.well-known/http-message-signatures-directory`."""
    expires_after: int = Field(default=60, ge=1, le=86_400)
    """Seconds for which the signature of a request is valid. The shorter, the less a copied one is worth. The clock of this
    machine must be right."""
    agent_form: AgentForm = "dictionary"
    """Form of the header Signature-Agent. dictionary is that of the IETF's working group. string is that of the drafts
    before October 2025, which Cloudflare verifies."""

    @field_validator("key_file")
    @classmethod
    def _absolute(cls, value: str) -> str:
        return str(Path(value).expanduser().absolute())

    @field_validator("signature_agent")
    @classmethod
    def _plain_agent(cls, value: str) -> str:
        return parse_agent(value)

    def problems(self) -> list[str]:
        """Return why requests cannot be signed, a line with the path in the table, or nothing."""
        return problems_of("key_file", self.signer)

    def signer(self, *, is_worker: bool = False) -> "RequestSigner":
        """Return the signer of requests, with the key read from its file.

        Args:
            is_worker: whether the run checked the file before, perhaps on another machine.

        Raises: ConfigError that names the file, this machine and the remedy.
        """
        from tasks.web.identity.key_file import load_key
        from tasks.web.identity.signer import RequestSigner

        key = load_key(Path(self.key_file), is_copy=is_worker)
        return RequestSigner(key, self.signature_agent, self.expires_after, self.agent_form)
