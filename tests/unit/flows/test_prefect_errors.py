"""An error that means a lost Prefect server names the server and the remedy; other errors are not changed."""

import httpx
import pytest
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings

from dataops.errors import ServiceError
from flows.task_run import translate_error


@pytest.mark.parametrize(
    ("error", "what"),
    [(ObjectNotFound(None), "has no record of this run any more"), (httpx.ConnectError("refused"), "does not answer")],  # pyright: ignore[reportArgumentType]
)
def test_translate_error_names_the_lost_server(error: Exception, what: str) -> None:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        found = translate_error(error)
    assert isinstance(found, ServiceError)
    assert (found.exit_code, found.retryable) == (75, True)
    assert str(found).startswith(f"the Prefect server at http://127.0.0.1:9/api {what}")
    assert "rerun" in str(found)


@pytest.mark.parametrize("status", [401, 403])
def test_translate_error_names_a_server_with_a_new_login(status: int) -> None:
    request = httpx.Request("POST", "http://127.0.0.1:4200/api/task_runs/")
    error = httpx.HTTPStatusError("refused", request=request, response=httpx.Response(status, request=request))
    found = translate_error(error)
    assert isinstance(found, ServiceError)
    assert f"refuses the login of this run (HTTP {status}): it was stopped during the run (`pairmill down`)" in str(
        found
    )
    assert "then rerun" in str(found)
