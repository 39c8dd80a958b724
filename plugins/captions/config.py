"""Define `[curate.recaption]`: the model that writes captions, what it is asked, and the limits of asking."""

from typing import Any, ClassVar
from urllib.parse import urlsplit

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from dataops.config import Share, StageConfig
from dataops.digest import canonical_json, text_sha256
from dataops.facts import Facts
from dataops.formatting import format_quantity
from dataops.language.profiles import check_profiles
from dataops.redaction import read_secret
from tasks.curate.step import Step
from training.rendezvous import is_loopback

NAME = "recaption"
API_KEY = "PAIRMILL_RECAPTION_API_KEY"
"""Environment variable with the key that requests carry, if the endpoint needs one."""
VERSION = 1
"""Version of the request, raised when the same settings ask for another text."""


class RecaptionConfig(StageConfig):
    """`[curate.recaption]`: let a model write a caption of each kept image, beside those that it has."""

    execution_fields: ClassVar[frozenset[str]] = frozenset(
        {"endpoint", "concurrency", "requests_per_second", "timeout", "attempts", "max_wait", "min_success"}
    )

    endpoint: str = Field(pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$", max_length=2048)
    """Base URL of an API that speaks OpenAI's protocol (vLLM, Ollama, llama.cpp), such as http://127.0.0.1:8000/v1. It
    may be on this machine or in a private network. Redirects are not followed."""
    model: str = Field(min_length=1, max_length=256)
    """Name of the model, as the endpoint expects it."""
    model_version: str = Field(default="", max_length=256)
    """Version or digest of the model's weights. The protocol does not state it, and a name may get other weights: set
    it, so that other weights make a new snapshot."""
    prompt: str = Field(default="Describe this image in one sentence.", min_length=1, max_length=10_000)
    """Text that the model gets with each image."""
    max_tokens: int = Field(default=100, ge=1, le=10_000)
    """Maximum length of an answer, in tokens."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """Temperature of the sampling; 0 takes the most probable token."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the sampling, for endpoints that use one."""
    max_chars: int = Field(default=1000, ge=1, le=100_000)
    """Maximum length of a caption, in characters; a longer text is not used (`too_long`)."""
    languages: list[str] = Field(default=[])
    """Languages that captions may be in (names of langdetect's profiles); empty is all. Others are not used."""
    max_images: PositiveInt | None = None
    """Maximum number of images that the model gets, of the whole snapshot. They are a fixed random choice. Answers in
    the cache count too."""
    concurrency: int = Field(default=8, ge=1, le=256)
    """Requests at a time."""
    requests_per_second: PositiveFloat | None = None
    """Maximum rate of requests; default: no limit."""
    timeout: float = Field(default=60.0, gt=0, le=3600)
    """Seconds after which a request has failed, however slowly its answer arrives."""
    attempts: int = Field(default=5, ge=1, le=20)
    """Attempts of an image, if the failure is temporary (429, 5xx, a broken connection, no answer in time)."""
    max_wait: float = Field(default=300.0, ge=0, le=86_400)
    """Maximum number of seconds that a Retry-After may ask for; an image whose server asks for more has failed."""
    min_success: Share = 0.9
    """Minimum share of the images that must get an answer; below it the stage fails, and a rerun asks for the rest."""

    @property
    def digest(self) -> str:
        """Digest of all that decides the model's text for an image; it names the folder of the cache."""
        values = (self.model, self.model_version, self.prompt, self.max_tokens, self.temperature, self.seed)
        return text_sha256(canonical_json([VERSION, *values]))[:32]

    @property
    def model_name(self) -> str:
        """Name of the model with its version."""
        return f"{self.model}@{self.model_version}" if self.model_version else self.model

    def key_config(self) -> dict[str, Any]:
        """Return the fields of the key, with the version of the request."""
        return {**super().key_config(), "version": VERSION}

    def problems(self) -> list[str]:
        """Return why the key must not be sent to the endpoint."""
        host, key = urlsplit(self.endpoint).hostname or "", read_secret(API_KEY)
        if key is None:
            return []
        if not key.get_secret_value().strip().isascii() or not key.get_secret_value().strip().isprintable():
            return [f"endpoint: {API_KEY} has characters that no key has; set it again"]
        if self.endpoint.startswith("http://") and not is_loopback(host):
            return [f"endpoint: {API_KEY} would be sent to {host} without encryption; use https, or unset the key"]
        return []

    @field_validator("endpoint")
    @classmethod
    def _without_slash(cls, endpoint: str) -> str:
        try:
            valid = bool(urlsplit(endpoint).hostname) and urlsplit(endpoint).port != 0
        except ValueError:
            valid = False
        if not valid:
            raise ValueError("host or port cannot be read; write http://HOST:PORT/v1")
        return endpoint.rstrip("/")

    @field_validator("languages")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        check_profiles(names)
        return sorted(set(names))


_PROMPT_SHOWN = 200


class RecaptionFacts(Facts):
    """Facts of the synthetic captions, in the manifest of `curate`."""

    stage = "curate"
    table = NAME
    model: str
    model_version: str
    prompt: str
    captioner: str = ""
    """Digest of all that decides an answer."""
    outcomes: dict[str, int]
    """Number of images by what became of their answer."""
    answered_by: dict[str, int] = Field(default={})
    """Number of answers by the model that the endpoint named."""
    requests: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


def _describe(facts: RecaptionFacts) -> list[str]:
    """Return which model wrote how many synthetic captions, by which prompt. What stands in back quotes is code."""
    version = f" (version {facts.model_version})" if facts.model_version else ", whose version was not stated"
    added, prompt = facts.outcomes.get("added", 0), " ".join(facts.prompt.split()).replace("`", "'")
    return [
        f"The model `{facts.model}`{version} wrote {format_quantity(added, 'synthetic caption')} beside the original "
        f"ones, by the prompt `{prompt[:_PROMPT_SHOWN]}`. Nobody has checked them."
    ]


STEP = Step(
    NAME,
    RecaptionConfig,
    "plugins.captions.captioning:caption_images",
    order=30,
    weight=400,
    asks_model=True,
    facts=RecaptionFacts,
    describe=_describe,
)
