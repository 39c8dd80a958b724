"""Retries of a source file: how long they last, what they show, and when they give up."""

import socket

import pytest

from dataops.errors import SourceError, SourceUnreachable
from dataops.messages.waiting import current_waits
from tasks.files import resumable
from tasks.files.http_file import HttpFile
from tasks.files.resumable import ConnectionBroken, ResumableStream, RetryLimit


class Sleeps:
    def __init__(self):
        self.total = 0.0
        self.waits = []

    def __call__(self, seconds):
        self.total += seconds
        self.waits += current_waits()


def read(sleeps, connect):
    return ResumableStream("http://files.example/a", connect, RetryLimit(900, sleeps)).read(10)


def test_a_host_that_was_never_reached_is_given_up_soon_and_not_retried_by_the_engine(monkeypatch):
    def unresolved(*args, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    sleeps = Sleeps()
    with pytest.raises(
        SourceUnreachable, match=r"the name files.example does not resolve .*gave up after .* tries"
    ) as e:
        read(sleeps, HttpFile("http://files.example/a", "pairmill", 5.0).connect)
    assert sleeps.total <= 30
    assert len(sleeps.waits) >= 3
    assert (e.value.exit_code, e.value.retryable) == (75, False)
    for wait in sleeps.waits:
        assert wait.reason.startswith("http://files.example/a: the name files.example does not resolve")
        assert wait.since <= wait.until <= wait.deadline


def test_a_host_that_answered_before_is_waited_for_in_full():
    resumable.mark_reached("reached.example")
    sleeps = Sleeps()

    def connect(offset):
        raise ConnectionBroken("no connection to reached.example", unreachable="reached.example")

    with pytest.raises(SourceUnreachable):
        read(sleeps, connect)
    assert 800 < sleeps.total <= 900


def test_a_server_that_limits_the_rate_is_waited_for_in_full_and_may_be_retried():
    sleeps = Sleeps()

    def connect(offset):
        raise ConnectionBroken("HTTP 503", retry_after=300)

    with pytest.raises(SourceError, match="the server asks to wait 300 s") as caught:
        read(sleeps, connect)
    assert (sleeps.total, caught.value.retryable) == (900, True)
