import pytest

from dataops.snapshot import Counts
from dataops.store import FolderStore
from tasks.download.config import DownloadConfig
from tasks.download.outcome import describe_longest, estimate_longest, explain_failure
from tests.downloads import filtered


@pytest.mark.parametrize(
    ("kept", "dropped", "retryable", "text"),
    [
        (0, {"dns": 529}, True, "Check the network, then rerun"),
        (
            0,
            {"private_address": 500, "timeout": 29},
            True,
            "500 (94.5%) failed as private_address: The host resolves to an IP address that is not on the public internet. "
            "A retry cannot solve this.",
        ),
        (
            10,
            {"private_address": 300, "http_404": 200, "timeout": 19},
            True,
            "Check the network, then rerun",
        ),
        (
            10,
            {"private_address": 300, "http_404": 204, "timeout": 15},
            False,
            "300 (56.7%) failed as private_address: ",
        ),
        (0, {"no_contact": 529}, False, "Set `download.contact`, then start a new run"),
        (0, {"opt_out": 529}, False, "Use another source, or lower download.min_success, then start a new run"),
    ],
)
def test_failure_is_retryable_only_if_a_rerun_may_fetch_enough_rows(kept, dropped, retryable, text):
    counts = Counts(input=529, kept=kept, dropped=dropped)
    error = explain_failure(counts, {"a.test": {"rows": 529, **dropped}}, DownloadConfig(min_success=0.05))
    assert text in str(error)
    assert f"download: fetched {kept} of 529 images, less than the share 0.05 of download.min_success. " in str(error)
    assert (error.retryable, error.exit_code) == ((True, 75) if retryable else (False, 2))
    config = DownloadConfig(proxy="http://p.test:1")
    found = str(explain_failure(counts, {}, config))
    assert "529 images through download.proxy = http://p.test:1, less" in found
    assert ("Check the proxy and its login, then rerun" in found) == retryable
    assert "worst hosts, failed of all rows:" in str(error)


def test_longest_hosts_are_described_with_their_time_and_what_a_limit_would_drop(tmp_path):
    urls = [f"http://{'big' if n % 3 else 'small'}.test/{n}" for n in range(300)]
    source = filtered(FolderStore(tmp_path), urls, rows_a_part=10)
    longest = estimate_longest(source, FolderStore(tmp_path))
    assert list(longest) == ["big.test", "small.test"]
    assert abs(longest["big.test"] - 200) < 10
    text = describe_longest({"b.test": 10, "a.test": 1_200_000}, 20.0)
    assert text.startswith(
        "hosts with the most rows, at host_rate = 20 per second: a.test 1,200,000 rows, 16.7 h; b.test"
    )
    assert text.endswith("max_host_rows = 72000 (an hour) would drop 1,128,000 rows")
    hosts = {f"{n}.test": 2_000 for n in range(9)}
    assert [describe_longest(hosts, 20.0, shown).count("rows, 100 s") for shown in (3, 7)] == [3, 7]
    assert describe_longest({"a.test": 1_000}, 20.0) == describe_longest({"a.test": 10**9}, 0) == ""
