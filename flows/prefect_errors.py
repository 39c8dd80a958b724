"""Translates errors of Prefect's client that mean a lost server into an error that names the server and the remedy."""

import httpx
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from dataops.errors import ServiceError


def translate_error(error: BaseException) -> BaseException:
    """Return a ServiceError (exit code 75) if the Prefect server or its record of this run is lost, else the same error.

    Only Prefect's client uses httpx in this process.
    """
    if isinstance(error, ObjectNotFound):
        problem = "has no record of this run any more: its database was lost, or another server has its URL now"
    elif isinstance(error, httpx.TransportError):
        problem = f"does not answer ({type(error).__name__}: {error})"
    else:
        return error
    return ServiceError(
        f"the Prefect server at {PREFECT_API_URL.value()} {problem}. Finished work is in the store: start the server again "
        "(`pairmill up`) or correct PREFECT_API_URL, then rerun"
    )
