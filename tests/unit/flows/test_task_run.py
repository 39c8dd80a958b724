"""What is said while Prefect waits before the retry of a stage."""

from collections.abc import Callable
from typing import Any

import pytest
from prefect.states import Failed

from dataops.errors import PairmillError, SourceError
from dataops.messages.waiting import Wait, current_waits
from dataops.snapshot import Manifest
from flows import task_run
from flows.task_run import run_task


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[list[Wait]]:
    """Replace Prefect's engine by one that retries at once; return the waits that were registered before each retry."""
    seen: list[list[Wait]] = []

    def task(*, retries: int, **options: Any) -> Callable[..., Any]:
        def decorate(body: Callable[[], Any]) -> Callable[..., Any]:
            def call(**how: Any) -> Any:
                for _ in range(retries + 1):
                    try:
                        return body()
                    except PairmillError as error:
                        seen.append(current_waits())
                        state = Failed(data=error)
                return state

            return call

        return decorate

    monkeypatch.setattr(task_run, "task", task)
    return seen


def fail_with(*errors: Exception) -> Callable[[], Manifest]:
    left = list(errors)

    def make() -> Manifest:
        raise left.pop(0)

    return make


def test_a_retry_of_a_stage_is_registered_as_a_wait_until_it_begins(waits, caplog):
    errors = SourceError("the site does not answer\nat all"), SourceError("still"), SourceError("still")
    with pytest.raises(SourceError):
        run_task("extract", "extract of 1 file", lambda: None, fail_with(*errors), (), None, (5.0, 30.0))
    assert [[wait.reason for wait in found] for found in waits] == [
        ["extract failed (the site does not answer)"],
        ["extract failed (still)"],
        [],
    ]
    assert [round((found[0].until or 0) - found[0].since) for found in waits[:2]] == [5, 30]
    assert current_waits() == []
    assert "extract failed and is retried in 5 s: the site does not answer" in caplog.text
