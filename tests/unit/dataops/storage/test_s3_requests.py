"""A 404 without S3's error code is retried once S3 has answered: a server that starts sends it for a moment."""

import pickle

import pytest
from botocore.exceptions import ClientError

from dataops.errors import ConfigError
from dataops.storage.s3 import S3Store
from dataops.storage.s3_requests import S3Requests


def answers(*found):
    """Return a request that has these answers in turn; None: a 404 of a server that is not S3."""
    left = list(found)

    def request():
        if (answer := left.pop(0)) is None:
            page = {"Error": {"Code": "404", "Message": "Not Found"}, "ResponseMetadata": {"HTTPStatusCode": 404}}
            raise ClientError(page, "GetObject")
        return answer

    return request


def test_server_that_answered_as_s3_may_start_again():
    requests = S3Requests("s3://b at s3.example", outlast_seconds=30, first_pause=0.001)
    with pytest.raises(ConfigError, match="not S3 answers there"):
        requests("read a", answers(None, "a"))
    assert requests("read a", answers("a")) == "a"
    assert requests("read a", answers(None, None, "b")) == "b"


def test_other_server_in_its_place_is_an_error_after_the_time_for_retries():
    requests = S3Requests("s3://b at s3.example", outlast_seconds=0.05, first_pause=0.01)
    requests("read a", answers("a"))
    with pytest.raises(ConfigError, match="not S3 answers there"):
        requests("read a", answers(*[None] * 100))


def test_a_pickled_store_carries_no_credentials_and_is_opened_with_those_of_its_reader(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "of-the-sender")
    sent = pickle.dumps(S3Store("mill", "a"))
    assert b"of-the-sender" not in sent
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1234")
    assert pickle.loads(sent).where == "s3://mill/a at 127.0.0.1:1234"
