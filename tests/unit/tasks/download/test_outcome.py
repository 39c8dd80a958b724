import pytest

from dataops.snapshot import Counts
from tasks.download.config import DownloadConfig
from tasks.download.outcome import explain_failure


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
    ],
)
def test_failure_is_retryable_only_if_a_rerun_may_fetch_enough_rows(
    kept: int, dropped: dict[str, int], retryable: bool, text: str
) -> None:
    counts = Counts(input=529, kept=kept, dropped=dropped)
    error = explain_failure(counts, {"a.test": {"rows": 529, **dropped}}, DownloadConfig(min_success=0.05))
    assert text in str(error)
    assert f"download: fetched {kept} of 529 images, less than the share 0.05 of download.min_success. " in str(error)
    assert (error.retryable, error.exit_code) == ((True, 75) if retryable else (False, 2))
    assert "worst hosts, failed of all rows:" in str(error)
