"""`[curate.recaption]` against a server on loopback that speaks OpenAI's protocol, well and badly."""

import base64
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from dataops.errors import ConfigError, ServiceError
from dataops.schema import CAPTIONS, CURATED, uid
from dataops.snapshot import Counts, read_parts
from dataops.store import FolderStore
from plugins.captions import captioning
from plugins.captions import endpoint as endpoints
from plugins.captions.config import API_KEY, RecaptionConfig
from plugins.captions.endpoint import Endpoint
from tasks.curate.config import CurateConfig
from tasks.curate.stage import CURATE
from tasks.curate.step import describe_steps
from tasks.engine.stage import make, plan
from tests.inline_executor import inline_context
from tests.servers.loopback import Handler, serving
from tests.unit.tasks.raw_images import blocks, downloaded, jpeg, pair

Reply = tuple[int, dict[str, str], bytes]
NEVER = threading.Event()
IMAGES = {n: jpeg(blocks(200 + n)) for n in range(110)}


def completion(text, **more):
    usage = {"prompt_tokens": 10, "completion_tokens": 3}
    answer = {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage, "model": "toy-2b"}
    return json.dumps(answer | more).encode()


def describe(image, times):
    return 200, {}, completion(f"a text about {hashlib.sha256(image).hexdigest()[:6]}")


@dataclass
class ToyServer:
    """A server whose `reply` returns status, headers and body for an image and the number of its request."""

    reply: Callable[[bytes, int], Reply] = describe
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: Counter[bytes] = field(default_factory=Counter)
    at_once: int = 0
    most_at_once: int = 0
    lock: Any = field(default_factory=threading.Lock)
    url: str = ""

    def answer(self, path, headers, body):
        found = json.loads(body)
        _, part = found["messages"][0]["content"]
        image = base64.b64decode(part["image_url"]["url"].removeprefix("data:image/jpeg;base64,"), validate=True)
        with self.lock:
            self.bodies.append(found)
            self.headers.append(headers | {"path": path})
            self.times[image] += 1
            times = self.times[image]
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return self.reply(image, times)
        finally:
            with self.lock:
                self.at_once -= 1


@pytest.fixture(scope="module")
def served():
    current = {}

    class Toy(Handler):
        def do_POST(self):
            status, headers, answer = current["toy"].answer(self.path, dict(self.headers), self.read_body())
            with suppress(OSError):  # the client has closed the connection
                self.answer(status, answer, **headers)

    with serving(Toy) as server:
        current["url"] = f"{server.url}/v1"
        yield current
        NEVER.set()


@pytest.fixture
def toy(served, monkeypatch):
    monkeypatch.setattr(captioning, "Endpoint", partial(Endpoint, max_backoff=0.01))
    served["toy"] = ToyServer(url=served["url"])
    return served["toy"]


def settings(toy, **more):
    return {"endpoint": toy.url, "model": "toy", "model_version": "sha256:abc", **more}


def curated(folder, toy, images=6, shard_size=4, **more):
    """Return the snapshot and its kept rows, each with the `outcome` of its image."""
    store = FolderStore(folder)
    pairs = [pair(f"http://img.example/{n}.jpg", f"caption {n}", IMAGES[n]) for n in range(images)]
    config = CurateConfig.model_validate({"recaption": settings(toy, **more)})
    upstream = downloaded(store, [*pairs, pair("http://img.example/s.jpg", "small", IMAGES[0], size=20)], shard_size)
    manifest = make(plan(CURATE, config, 0, [upstream]), inline_context(store, folder))
    outcomes = {row["uid"]: row["outcome"] for row in read_parts(store, manifest, "recaption-").to_pylist()}
    return manifest, [row | {"outcome": outcomes[row["uid"]]} for row in read_parts(store, manifest).to_pylist()]


def test_each_kept_image_gets_a_synthetic_caption_beside_its_own(tmp_path, toy):
    manifest, rows = curated(tmp_path, toy, concurrency=3, prompt="What is it?", languages=[])
    assert manifest.counts == Counts(input=7, kept=6, dropped={"too_small": 1})
    assert read_parts(FolderStore(tmp_path), manifest).schema == CURATED.append(CAPTIONS)
    for row in rows:
        image = IMAGES[int(row["url"][-5])]
        [caption] = row["captions"]
        assert caption["caption"] == f"a text about {hashlib.sha256(image).hexdigest()[:6]}"
        assert caption["caption_source"] == "synthetic"
        assert caption["uid"] == uid(row["url"], caption["caption"])
        assert caption["extracted_with"] == "pairmill-recaption/1 toy@sha256:abc"
        assert row["caption"].startswith("caption "), "the original is kept"
    assert set(toy.times) == {IMAGES[n] for n in range(6)}, "no dropped image is sent"
    body = toy.bodies[0]
    assert (body["model"], body["max_tokens"], body["temperature"], body["stream"]) == ("toy", 100, 0.0, False)
    assert body["messages"][0]["content"][0] == {"type": "text", "text": "What is it?"}
    assert toy.headers[0]["path"] == "/v1/chat/completions"
    assert "Authorization" not in toy.headers[0]
    facts = manifest.facts["recaption"]
    assert describe_steps(manifest)[0].startswith("The model `toy` (version sha256:abc) wrote 6 synthetic captions")
    assert facts["outcomes"] == {"added": 6}
    assert (facts["model"], facts["model_version"], facts["prompt"]) == ("toy", "sha256:abc", "What is it?")
    assert (facts["requests"], facts["cached"], facts["prompt_tokens"], facts["completion_tokens"]) == (6, 0, 60, 18)
    assert facts["answered_by"] == {"toy-2b": 6}


def test_a_rerun_pays_nothing_and_gives_the_same_bytes(tmp_path, toy):
    first, _ = curated(tmp_path / "a", toy)
    FolderStore(tmp_path / "a").delete_tree(first.path(""))
    other, _ = curated(tmp_path / "a", toy, shard_size=2, max_chars=500)  # other checks of the text need no new answer
    again, _ = curated(tmp_path / "a", toy)
    assert len(toy.bodies) == 6
    assert again.content_digest == first.content_digest
    assert other.facts["recaption"] | {"cached": 0} == first.facts["recaption"] | {"cached": 0, "requests": 0} | {
        name: 0 for name in ("prompt_tokens", "completion_tokens")
    }
    curated(tmp_path / "a", toy, prompt="Another question")
    assert len(toy.bodies) == 12


def bad_replies(image, times):
    """Reply to each image in another way."""
    number = next(n for n, data in IMAGES.items() if data == image)
    temporary = {
        0: (429, {"Retry-After": "0"}, b"slow down"), 1: (500, {}, b"oops"), 2: (503, {"Retry-After": "9999"}, b""),
    }  # fmt: skip
    if number in temporary and (times < 2 or number == 2):
        return temporary[number]
    if number == 3:
        NEVER.wait(20)
    return {
        4: (200, {}, b"x" * (endpoints.MAX_ANSWER_BYTES + 1)),
        5: (200, {}, b"<html>no JSON</html>"),
        6: (200, {}, completion("  \u200b\n")),
        7: (200, {}, completion("word " * 300)),
        8: (302, {"Location": "http://127.0.0.1:1/"}, b""),
        9: (400, {}, b'{"error": "no such image"}'),
        10: (200, {}, completion([{"type": "text", "text": "a list\x00 of "}, {"type": "text", "text": "parts"}])),
        11: (200, {}, b"[" * 100_000),
    }.get(number, describe(image, times))


def test_every_bad_answer_leaves_the_row_with_a_reason(tmp_path, toy):
    toy.reply = bad_replies
    manifest, rows = curated(tmp_path, toy, 12, 50, attempts=2, timeout=4, min_success=0, max_wait=5, concurrency=12)
    outcomes = {int(row["url"].rpartition("/")[2].partition(".")[0]): row["outcome"] for row in rows}
    assert outcomes == {
        0: "added", 1: "added", 2: "http_503", 3: "timeout", 4: "too_large", 5: "bad_answer", 6: "empty", 7: "too_long",
        8: "redirect", 9: "http_400", 10: "added", 11: "bad_answer",
    }  # fmt: skip
    assert manifest.counts.kept == len(rows) == 12
    assert {row["url"] for row in rows if row["captions"]} == {f"http://img.example/{n}.jpg" for n in (0, 1, 10)}
    assert [row["captions"][0]["caption"] for row in rows if row["url"].endswith("/10.jpg")] == ["a list of parts"]
    assert [toy.times[IMAGES[n]] for n in (0, 1, 3)] == [2, 2, 2]
    assert all(toy.times[IMAGES[n]] == 1 for n in range(4, 12)), "what another attempt would not change is not retried"
    assert toy.times[IMAGES[2]] == 1, "nor what has to wait longer than max_wait"


def test_too_few_answers_fail_the_stage_and_a_rerun_asks_for_the_rest(tmp_path, toy):
    toy.reply = lambda image, times: (500, {}, b"") if image == IMAGES[5] else describe(image, times)
    with pytest.raises(ServiceError, match=r"answered for 5 of 6 images, less than min_success = 0\.9 \(http_500 1\)"):
        curated(tmp_path, toy, attempts=2)
    asked = len(toy.bodies)
    toy.reply = describe
    manifest, rows = curated(tmp_path, toy, attempts=2)
    assert {row["outcome"] for row in rows} == {"added"}
    assert len(toy.bodies) == asked + 1
    assert manifest.facts["recaption"]["outcomes"] == {"added": 6}


def test_an_endpoint_that_is_down_or_refuses_ends_the_stage_soon(tmp_path, toy):
    for status, most in ((503, 20), (400, 100)):
        toy.bodies.clear()
        toy.reply = lambda image, times, status=status: (status, {}, b"")
        with pytest.raises(ServiceError, match=rf"failed for {most} images in a row, the last time with http_{status}"):
            curated(tmp_path / str(status), toy, most + 10, most + 10, attempts=1, concurrency=1)
        assert len(toy.bodies) < most + 4
    toy.bodies.clear()
    toy.reply = lambda image, times: (503 if len(toy.bodies) % 20 == 0 else 400, {}, b"")
    with pytest.raises(ServiceError, match=r"failed for 100 images in a row"):  # not for the first 20
        curated(tmp_path / "mixed", toy, 110, 110, attempts=1, concurrency=1)
    for status, remedy in ((401, API_KEY), (404, "endpoint and model")):
        toy.reply = lambda image, times, status=status: (status, {}, b"")
        with pytest.raises(ConfigError, match=rf"status {status}; .*{remedy}"):
            curated(tmp_path / str(status), toy, 3, concurrency=1)


def test_the_key_is_sent_and_written_nowhere(tmp_path, toy, monkeypatch):
    monkeypatch.setenv(API_KEY, "sk-0123456789abcdef")
    toy.reply = lambda image, times: (400, {}, b"sk-0123456789abcdef") if image == IMAGES[1] else describe(image, times)
    curated(tmp_path, toy, min_success=0.5)
    assert {headers["Authorization"] for headers in toy.headers} == {"Bearer sk-0123456789abcdef"}
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"sk-0123456789" in path.read_bytes()]
    remote = RecaptionConfig(endpoint="http://models.example/v1", model="toy")
    assert remote.problems() == [f"endpoint: {API_KEY} would be sent to models.example without encryption; "
                                 "use https, or unset the key"]  # fmt: skip
    assert RecaptionConfig(endpoint="https://models.example/v1", model="toy").problems() == []
    monkeypatch.setenv(API_KEY, "sk-01234\n56789")
    assert "characters that no key has" in remote.problems()[0]


def test_limits_of_images_requests_and_rate_hold(tmp_path, toy):
    def reply(image, times):
        time.sleep(0.02)
        return describe(image, times)

    toy.reply = reply
    started = time.monotonic()
    manifest, rows = curated(tmp_path, toy, 12, 5, max_images=7, concurrency=2, requests_per_second=50)
    assert time.monotonic() - started >= 4 / 50
    assert toy.most_at_once <= 2
    outcomes = manifest.facts["recaption"]["outcomes"]
    assert outcomes["added"] == len(toy.bodies) <= 7
    assert outcomes["over_budget"] == 12 - outcomes["added"]
    assert sum(row["captions"] is not None for row in rows) == outcomes["added"]
