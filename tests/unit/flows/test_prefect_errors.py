"""A Prefect server that vanished is named, with what to do; other errors stay what they are."""

import httpx
import pytest
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings

from dataops.errors import ContractError, ServiceError
from flows.prefect_errors import translate_error


@pytest.mark.parametrize(
    ("error", "what"),
    [(ObjectNotFound(None), "does not know this run any more"), (httpx.ConnectError("refused"), "does not answer")],  # pyright: ignore[reportArgumentType]
)
def test_a_server_that_is_gone(error: Exception, what: str) -> None:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        found = translate_error(error)
    assert isinstance(found, ServiceError)
    assert (found.exit_code, found.retryable) == (75, True)
    assert str(found).startswith(f"the Prefect server at http://127.0.0.1:9/api {what}")
    assert "rerun" in str(found)


def test_what_is_not_of_prefect() -> None:
    error = ContractError("rows")
    assert translate_error(error) is error
