import pytest

from dataops.errors import (
    ConfigError,
    ContractError,
    CorruptPart,
    DatasetBlocked,
    GateRefused,
    JobFailed,
    LeaseLost,
    ServiceError,
    SourceError,
    StorageError,
    TrainingDiverged,
    UnusableSource,
)
from flows.failures import next_step


@pytest.mark.parametrize(
    "error", [SourceError("x"), StorageError("x"), ServiceError("x"), LeaseLost("x"), JobFailed("x"), OSError("x")]
)
def test_rerun_is_offered_where_it_can_help(error: Exception):
    assert next_step(error, "run-1") == "Continue this run: `pairmill rerun run-1`"


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("x"),
        UnusableSource("x"),
        ContractError("x"),
        DatasetBlocked("x"),
        TrainingDiverged("x"),
        GateRefused("x"),
    ],
)
def test_rerun_is_not_offered_where_it_would_end_in_the_same_way(error: Exception):
    text = next_step(error, "run-1")
    assert "rerun" not in text
    assert "start a new run" in text.lower()


def test_damaged_snapshot_is_rebuilt():
    assert "`pairmill rerun run-1 --from STAGE`" in next_step(CorruptPart("x"), "run-1")
