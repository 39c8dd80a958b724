"""What a user can do about a run that failed, for the flow run's state and the command's last line."""

import httpx
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from dataops.errors import CorruptPart, DatasetBlocked, PairmillError, SchemaError, ServiceError

_NEW_RUN = {
    2: "Correct the config and start a new run.",
    3: "Correct what the message names and start a new run.",
    4: "Change [train] and start a new run.",
    5: "The version is registered as candidate. Start a new run with another recipe, or lower the floor.",
}
"""What to do by exit code, for errors that a rerun with the same config would raise again."""


def describe_failure(error: BaseException, stage: str, run_id: str) -> str:
    """Return the message of a flow run's state: the stage, the kind of error, what to do, and the error itself."""
    failed = "the dataset is blocked" if isinstance(error, DatasetBlocked) else f"{stage} failed"
    return f"{failed}: {type(error).__name__}. {next_step(error, run_id)}\n{error}"


def next_step(error: BaseException, run_id: str) -> str:
    """Return one sentence; it names `pairmill rerun` only if that can help."""
    if isinstance(error, DatasetBlocked):
        return (
            f"Correct the source, or change [checks], and start a new run. `pairmill show {run_id}` prints the checks."
        )
    code = error.exit_code if isinstance(error, PairmillError) else 1
    if isinstance(error, CorruptPart | SchemaError):
        return f"Rebuild the damaged stage: `pairmill rerun {run_id} --from STAGE`"
    return _NEW_RUN.get(code, f"Continue this run: `pairmill rerun {run_id}`")


def translate_error(error: BaseException) -> BaseException:
    """Return a ServiceError (exit code 75) if the Prefect server or what it knows of this run is lost, else the same error.

    Only Prefect's client uses httpx in this process.
    """
    if isinstance(error, ObjectNotFound):
        problem = "has no record of this run any more: its database was lost, or another server has its URL now"
    elif isinstance(error, httpx.TransportError):
        problem = f"does not answer ({type(error).__name__}: {error})"
    elif isinstance(error, httpx.HTTPStatusError) and error.response.status_code in (401, 403):
        problem = (
            f"refuses the login of this run (HTTP {error.response.status_code}): it was stopped during the run (`pairmill"
            " down`) and has a new login, or its login was changed"
        )
    else:
        return error
    return ServiceError(
        f"the Prefect server at {PREFECT_API_URL.value()} {problem}. Finished work is in the store: start the server again "
        "(`pairmill up`) or correct PREFECT_API_URL, then rerun"
    )
