"""Ask a model for the caption of an image: one request of OpenAI's chat completions, and its retries.

Source: OpenAI API reference, "Create chat completion"; vLLM, Ollama and llama.cpp serve the same. The image is sent as a
data URL. The endpoint is one that the user named, so its IP address may be private; redirects are not followed, and
neither proxies nor .netrc of the environment are used.
"""

import base64
import json
import threading
import time
from dataclasses import dataclass
from typing import Any

import msgspec

from dataops.errors import ConfigError
from dataops.redaction import read_secret
from plugins.captions.config import API_KEY, RecaptionConfig
from tasks.web.fetch_error import FetchError
from tasks.web.named_server import ServerAnswer, send_request
from tasks.web.request import (
    REDIRECTS,
    parse_retry_seconds,
)

MAX_ANSWER_BYTES = 1 << 20
"""Maximum size of an answer, in bytes."""
MAX_BACKOFF = 60.0
"""Maximum wait before a retry without a Retry-After, in seconds; the first is one second, each next one twice as long."""
MIME_TYPES = {"jpg": "image/jpeg", "jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}


class Stopped(Exception):
    """The stage ends, so no further request is made."""


class _Message(msgspec.Struct):
    content: str | list[dict[str, Any]] | None = None


class _Choice(msgspec.Struct):
    message: _Message


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    model: str | None = None
    system_fingerprint: str | None = None
    usage: _Usage | None = None


# Made before there are threads: two threads in which msgspec sees a type for the first time may crash.
_decode_completion = msgspec.json.Decoder(_Completion).decode


@dataclass(frozen=True)
class Answer:
    """The text of a model for an image."""

    text: str
    model: str = ""
    """Name of the model, as the answer states it, with the fingerprint of the server's configuration if there is one."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Pace:
    """Divides the time between the threads: no request starts before its turn, or in a pause that the server asked for.

    Args:
        rate: requests a second; None: no limit.
    """

    def __init__(self, rate: float | None):
        self._interval = 1 / rate if rate else 0.0
        self._next = 0.0
        self._lock = threading.Lock()
        self.stopped = threading.Event()

    def wait(self) -> None:
        """Wait for the turn of the next request. Raises: Stopped."""
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + self._interval
        if self.stopped.wait(max(turn - time.monotonic(), 0.0)):
            raise Stopped

    def pause(self, seconds: float) -> None:
        """Let no thread start a request for some seconds."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


class Endpoint:
    """Asks one endpoint. Safe to use from many threads."""

    def __init__(self, config: RecaptionConfig, image_extension: str, max_backoff: float = MAX_BACKOFF):
        self._config, self._max_backoff = config, max_backoff
        self._mime_type = MIME_TYPES[image_extension]
        key = read_secret(API_KEY)
        self._login = {"Authorization": f"Bearer {key.get_secret_value().strip()}"} if key else {}
        self.pace = Pace(config.requests_per_second)
        self.requests = 0
        """Number of requests that were sent."""
        self._lock = threading.Lock()

    def ask(self, image: bytes) -> Answer:
        """Return the answer for an image, after retries of temporary failures.

        Raises: FetchError of the last attempt; ConfigError if the endpoint refuses every request; Stopped.
        """
        body = self._make_body(image)
        for attempt in range(1, self._config.attempts + 1):
            self.pace.wait()
            with self._lock:
                self.requests += 1
            try:
                return self._send(body)
            except FetchError as error:
                wait = min(2.0 ** (attempt - 1), self._max_backoff)
                if error.retry_after is not None:
                    if error.retry_after > self._config.max_wait:
                        raise
                    wait = max(error.retry_after, 0.0)
                    self.pace.pause(wait)
                if not error.is_transient or attempt == self._config.attempts:
                    raise
                if self.pace.stopped.wait(wait):
                    raise Stopped from None
        raise AssertionError("attempts is at least 1")

    def _make_body(self, image: bytes) -> bytes:
        url = f"data:{self._mime_type};base64,{base64.b64encode(image).decode()}"
        content = [{"type": "text", "text": self._config.prompt}, {"type": "image_url", "image_url": {"url": url}}]
        settings = {name: getattr(self._config, name) for name in ("model", "max_tokens", "temperature", "seed")}
        return json.dumps({**settings, "stream": False, "messages": [{"role": "user", "content": content}]}).encode()

    def _send(self, body: bytes) -> Answer:
        url, timeout = f"{self._config.endpoint}/chat/completions", self._config.timeout
        answer = send_request(url, body, headers=self._login, timeout=timeout, limit=MAX_ANSWER_BYTES)
        self._check_status(answer)
        return _parse_answer(answer.body)

    def _check_status(self, answer: ServerAnswer) -> None:
        """Raise FetchError for any status but 200; ConfigError for one that every request will get."""
        status = answer.status
        if status in (401, 403, 404):
            remedy = (
                "check curate.recaption.endpoint and model" if status == 404 else f"set {API_KEY} in the environment"
            )
            raise ConfigError(f"curate.recaption: {self._config.endpoint} answered with status {status}; {remedy}")
        if status in REDIRECTS:
            raise FetchError("redirect", f"status {status}; redirects are not followed")
        if status != 200:
            wait = parse_retry_seconds(answer.headers.get("Retry-After"))
            raise FetchError(f"http_{status}", f"status {status}", wait)


def _parse_answer(data: bytes) -> Answer:
    """Return the answer in a response. Raises: FetchError."""
    try:
        found = _decode_completion(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise FetchError("bad_answer", "no JSON of a chat completion") from None
    if not found.choices:
        raise FetchError("bad_answer", "no choice")
    content = found.choices[0].message.content
    if isinstance(content, list):
        texts = [part.get("text") for part in content if part.get("type") == "text"]
        content = "".join(text for text in texts if isinstance(text, str))
    usage = found.usage or _Usage()
    model = " ".join(name for name in (found.model, found.system_fingerprint) if name)
    return Answer(content or "", model[:256], usage.prompt_tokens, usage.completion_tokens)
