"""Disturb an S3 server while a pipeline uses it: 503 SlowDown, slow responses, cut connections, and restarts by SIGKILL.

Faults come in episodes of a few seconds with calm between them. Kind, begin and length of the episodes depend on the seed
only; which requests an episode meets depends on the pipeline.
"""

import random
import re
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tests.kills.faulty_proxy import meddler

KINDS = ("busy", "slow", "cut", "restart")
"""Kinds of episodes: 503 responses, delayed requests, cut connections, a server that is killed and started again."""
CALM_SECONDS = 8.0
"""Mean seconds between two episodes."""
EPISODE_SECONDS = (1.0, 8.0)
"""Minimum and maximum seconds of an episode: shorter than a request is retried for (dataops/storage/s3_requests.py)."""
SHARE = 0.6
"""Share of the requests of an episode that fail or wait."""
SLOW_SECONDS = (0.05, 2.0)
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
LISTED_TIME = re.compile(rb"<(LastModified|Initiated)>([^<]+)</\1>")


@dataclass(frozen=True)
class Episode:
    """One disturbance."""

    calm: float
    """Seconds before it begins."""
    kind: str
    seconds: float


def draw_episodes(seed):
    """Yield episodes without end; each four in a row contain each kind once, in random order."""
    drawn = random.Random(seed)
    while True:
        for kind in drawn.sample(KINDS, len(KINDS)):
            calm = min(drawn.expovariate(1 / CALM_SECONDS), 4 * CALM_SECONDS)
            yield Episode(calm, kind, drawn.uniform(*EPISODE_SECONDS))


class StoreFaults:
    """The faults of one server, which clients reach through a proxy.

    Args:
        say: called with one line per episode.
    """

    def __init__(self, server, seed, say=lambda line: None):
        self.counts = Counter()
        """Number of faults by kind: requests that failed or waited, restarts, and power losses."""
        self.url = ""
        """URL of the proxy while `proxy` is entered."""
        self.is_down = False
        """Whether the server is killed and not yet started again."""
        self._server, self._say = server, say
        self._episodes, self._drawn = draw_episodes(seed), random.Random(seed)
        self._kind = ""
        self._age = timedelta()
        self._ended = threading.Event()
        self._restarting = threading.Lock()
        self._failure = None

    @contextmanager
    def proxy(self):
        """Run the proxy. It forwards all requests unchanged until `disturb` is entered."""
        with meddler(self._server.endpoint, self._meddle) as self.url:
            yield

    @contextmanager
    def disturb(self):
        """Let episodes happen inside the `with`. At its end the server accepts requests.

        Raises: RuntimeError if the server did not start again.
        """
        self._ended.clear()
        thread = threading.Thread(target=self._run_episodes, name="store faults")
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
            self._kind = ""
        if self._failure is not None:
            raise self._failure

    @contextmanager
    def aged(self, days):
        """Add some days to the age of all objects and uploads in the server's listings."""
        self._age = timedelta(days=days)
        try:
            yield
        finally:
            self._age = timedelta()

    def lose_power(self):
        """Kill the server, and start it again on the same data."""
        self.counts["power loss"] += 1
        self._restart(0.0)

    def _restart(self, seconds):
        with self._restarting:
            self.is_down = True
            self._server.stop(at_once=True)
            self._ended.wait(seconds)
            self._server.start()
            self.is_down = False

    def _run_episodes(self):
        try:
            for episode in self._episodes:
                if self._ended.wait(episode.calm):
                    return
                self._say(f"S3: {episode.kind} for {episode.seconds:.1f} s")
                if episode.kind == "restart":
                    self.counts["restart"] += 1
                    self._restart(episode.seconds)
                    continue
                self._kind = episode.kind
                self._ended.wait(episode.seconds)
                self._kind = ""
        except BaseException as error:
            self._failure = error

    def _meddle(self, exchange):
        """Disturb one exchange, before it is forwarded or with its response."""
        if self._age:
            if exchange.answer is not None:
                exchange.answer = self._make_older(*exchange.answer)
            return
        kind = self._kind
        if not kind or self._drawn.random() > SHARE:
            return
        if kind == "cut":
            # A request that is lost, a response that is lost, or half a response.
            if not exchange.is_answered:
                exchange.dropped = self._drawn.random() < 0.5
                self.counts["cut: request"] += exchange.dropped
            elif self._drawn.random() < 0.5 or not (exchange.answer and exchange.answer[1]):
                exchange.dropped = True
                self.counts["cut: response"] += 1
            else:
                exchange.sent_share = self._drawn.random()
                self.counts["cut: half a response"] += 1
        elif not exchange.is_answered and kind == "busy":
            self.counts["503"] += 1
            exchange.respond(503, SLOW_DOWN)
        elif not exchange.is_answered and kind == "slow":
            self.counts["slow"] += 1
            self._ended.wait(self._drawn.uniform(*SLOW_SECONDS))

    def _make_older(self, headers, data):
        def older(match):
            time = datetime.fromisoformat(match[2].decode()).astimezone(UTC) - self._age
            return b"<%s>%s</%s>" % (match[1], f"{time:%Y-%m-%dT%H:%M:%S.000Z}".encode(), match[1])

        kept = [(name, value) for name, value in headers if name.lower() not in ("content-length", "etag")]
        # Only listings have these elements; other objects pass unchanged.
        changed = LISTED_TIME.sub(older, data) if data.startswith(b"<?xml") else data
        return (kept, changed) if changed != data else (headers, data)
