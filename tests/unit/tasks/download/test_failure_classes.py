import pytest

from tasks.download.config import RetryConfig, check_patterns, may_succeed_later
from tasks.reports.drop_reasons import DOWNLOAD


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
