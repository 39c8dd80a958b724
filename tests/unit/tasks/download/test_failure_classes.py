import pytest

from tasks.download.config import RetryConfig, check_patterns, matches_class, may_succeed_later
from tasks.reports.drop_reasons import DOWNLOAD


@pytest.mark.parametrize(
    ("name", "patterns", "expected"),
    [
        ("timeout", ["timeout"], True),
        ("timeout", ["dns", "http_5xx"], False),
        ("http_503", ["dns", "http_5xx"], True),
        ("http_404", ["http_5xx"], False),
        ("http_5xx", ["http_5xx"], False),  # no such class: xx stands for digits
        ("http_50", ["http_5xx"], False),
        ("http_429", ["http_42x"], True),
        ("too_large", ["too_*"], True),
        ("max", ["max"], True),  # an x that follows no digit is an x
        (None, ["*"], False),
        ("anything", ["*"], True),
        ("timeout", [], False),
    ],
)
def test_matches_class_compares_names_and_patterns(name: str | None, patterns: list[str], expected: bool) -> None:
    assert matches_class(name, patterns) is expected


@pytest.mark.parametrize("bad", ["", "Timeout", "http 503", "a,b", "../x", "[a]"])
def test_check_patterns_refuses_other_text(bad: str) -> None:
    assert check_patterns(["timeout", "http_5xx"]) == ("timeout", "http_5xx")
    with pytest.raises(ValueError, match="no failure class"):
        check_patterns(["timeout", bad])


def test_every_failure_class_is_temporary_or_permanent() -> None:
    later = {name for name in DOWNLOAD if may_succeed_later(name, ())}
    temporary = {"timeout", "dns", "connect", "incomplete", "host_busy"}
    assert later == temporary | {"lost", "other", "worker_died", "out_of_memory"}
    assert [may_succeed_later(f"http_{status}", ()) for status in (404, 403, 410, 408, 429, 500, 503)] == [
        *(False, False, False),
        *(True, True, True, True),
    ]
    assert may_succeed_later("http_403", ("http_4xx",)), "the user expects it to change"
    assert all(may_succeed_later(name, ()) for name in RetryConfig().classes)
