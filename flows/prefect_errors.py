"""What Prefect's client raises where its server is gone, as an error that names the server and the remedy."""

import httpx
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from dataops.errors import ServiceError


def named(error: BaseException) -> BaseException:
    """ServiceError (75) in place of an error that says no more than that the server or this run is gone; others stay.

    Nothing but Prefect's client uses httpx.
    """
    if isinstance(error, ObjectNotFound):
        what = "does not know this run any more: its database was lost, or another server is there now"
    elif isinstance(error, httpx.TransportError):
        what = f"does not answer ({type(error).__name__}: {error})"
    else:
        return error
    return ServiceError(
        f"the Prefect server at {PREFECT_API_URL.value()} {what}. What is finished is in the store: start the server again "
        "(`pairmill up`), or mend PREFECT_API_URL, and rerun"
    )
