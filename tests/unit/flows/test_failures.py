import pytest

from dataops.errors import (
    CorruptPart,
    JobFailed,
    LeaseLost,
    ServiceError,
    SourceError,
    StorageError,
)
from flows.task_run import next_step


@pytest.mark.parametrize(
    "error", [SourceError("x"), StorageError("x"), ServiceError("x"), LeaseLost("x"), JobFailed("x"), OSError("x")]
)
def test_rerun_is_offered_where_it_can_help(error: Exception):
    assert next_step(error, "run-1") == "Continue this run: `pairmill rerun run-1`"


def test_damaged_snapshot_is_rebuilt():
    assert "`pairmill rerun run-1 --from STAGE`" in next_step(CorruptPart("x"), "run-1")
