"""An error that means a lost Prefect server, or a full disk, names the remedy; other errors are not changed."""

import errno

import httpx
import pytest
from prefect import get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings

from dataops.errors import ServiceError, StorageError
from flows.task_run import translate_error

REQUEST = httpx.Request("POST", "http://127.0.0.1:9/api/task_runs/")
REFUSED = httpx.HTTPStatusError("refused", request=REQUEST, response=httpx.Response(401, request=REQUEST))


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (ObjectNotFound(None), "has no record of this run any more"),
        (httpx.ConnectError("refused"), "does not answer"),
        (REFUSED, "refuses the login of this run (HTTP 401): it was stopped during the run (`pairmill down`)"),
    ],
)
def test_translate_error_names_the_lost_server(error, what):
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        found = translate_error(error)
    assert isinstance(found, ServiceError)
    assert (found.exit_code, found.retryable) == (75, True)
    assert "the Prefect server at http://127.0.0.1" in str(found)
    assert what in str(found)
    assert "rerun" in str(found)


def test_translate_error_ends_a_run_on_a_full_disk_as_retryable():
    found = translate_error(OSError(errno.ENOSPC, "No space left on device"))
    assert isinstance(found, StorageError)
    assert "free disk space" in str(found)


def test_translate_error_knows_the_error_of_a_client_that_finds_no_api():
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9"}), get_client(sync_client=True) as client:
        with pytest.raises(RuntimeError) as raised:
            client.raise_for_api_version_mismatch()
        assert isinstance(translate_error(raised.value), ServiceError)
