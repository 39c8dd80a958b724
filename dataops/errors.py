"""Define the errors that pairmill raises on purpose, and their exit codes.

PairmillError
├── ConfigError            2   the config or the command line is wrong
├── ContractError          3   data violates the contract between stages
│   ├── SchemaError            columns or types differ from the contract
│   ├── CorruptPart            a part is missing or its bytes differ from the manifest
│   └── DatasetBlocked         a check of `[checks]` with the level `block` failed
├── TrainingDiverged       4   loss or gradients are not finite
├── GateRefused            5   the model is below a limit of the config
├── SourceError           75   an archive, list or site could not be read (retryable)
│   ├── UnusableSource      2   it would be read in the same way again
│   └── SourceUnreachable      no connection to its host: retried already, so no stage or task retries it
├── StorageError          75   the store failed (retryable)
├── LeaseLost             75   another run took over the snapshot (retryable)
├── ServiceError          75   Prefect or MLflow did not start or respond (retryable)
└── JobFailed              1   a subprocess failed; 75 if its own exit code was 75

A bad sample is a dropped row, a bad part raises one of these errors, a bad run is a failed flow.
Exit code 75 (EX_TEMPFAIL of sysexits.h) means that a rerun may succeed. `retryable` means that a
retry within the same run may: a full disk and a file that changed while it was read need a rerun.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from dataops.redaction import redact


class PairmillError(Exception):
    """Base class of all errors here. Secrets are removed from the texts.

    Args:
        retryable: whether a retry within the same run may succeed, if that differs from what the class says.
    """

    exit_code: int = 1
    retryable: bool = False

    def __init__(self, *texts: str, retryable: bool | None = None):
        super().__init__(*(redact(str(text)) for text in texts))
        if retryable is not None:
            self.retryable = retryable


def describe_error(error: BaseException) -> str:
    """Return the message for a user: the text of a PairmillError is enough, any other error needs its class too."""
    return str(error) if isinstance(error, PairmillError) else f"{type(error).__name__}: {error}"


class ConfigError(PairmillError):
    """The config or the command line is wrong; all problems are reported together."""

    exit_code = 2


class ContractError(PairmillError):
    """Data violates the contract between stages."""

    exit_code = 3


class NothingLeft(ContractError):
    """A stage over pairs kept none of them."""


class SchemaError(ContractError):
    """Columns or types differ from the contract."""


class CorruptPart(ContractError):
    """A part is missing or its bytes differ from the manifest."""


class DatasetBlocked(ContractError):
    """A check of `[checks]` whose level is `block` failed, so nothing is trained on the dataset."""


class TrainingDiverged(PairmillError):
    """Loss or gradients are not finite."""

    exit_code = 4


class GateRefused(PairmillError):
    """The evaluated model is below a limit of the config, or worse than the champion."""

    exit_code = 5


class SourceError(PairmillError):
    """An archive, list or site could not be read."""

    exit_code = 75
    retryable = True


class UnusableSource(SourceError):
    """An archive, list or site that the config names is missing, damaged or forbidden: a retry reads the same."""

    exit_code = 2
    retryable = False


class SourceUnreachable(SourceError):
    """The host of a source could not be reached, also by retries, so only a later run may succeed."""

    retryable = False


def explain_unreadable(path: object, error: Exception) -> SourceError:
    """Return the error of a local file that cannot be read. A retry may help only if a disk or its network failed.

    Args:
        error: what reading raised; readers of compressed files raise it for damaged data too.
    """
    number, text = getattr(error, "errno", None), getattr(error, "strerror", None) or error
    kind = SourceError if number in _TEMPORARY else UnusableSource
    return kind(f"cannot read {path}: {text}")


@contextmanager
def writing(path: object = None, remedy: str = "name a place that exists and that you may write to") -> Iterator[None]:
    """Name the file that a user wants, and the remedy, if it cannot be written.

    Args:
        path: the file or folder. None: of all errors, only those of a full disk and of a file without permission.

    Raises: StorageError if the disk is full; ConfigError.
    """
    try:
        yield
    except OSError as error:
        file, full = error.filename2 or error.filename or path, error.errno in DISK_FULL
        if not (path or full or (file and error.errno in FORBIDDEN)):
            raise
        what = f"cannot {'write' if path or full else 'open'} {file or 'a file or the output'}: {error.strerror or error}; "
        raise StorageError(f"{what}free disk space, or {remedy}") if full else ConfigError(what + remedy) from error


FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG})
"""Error numbers of a missing permission, and of a name that no file can have."""
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers of a full disk, quota or file."""


_TEMPORARY = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class StorageError(PairmillError):
    """The store failed."""

    exit_code = 75
    retryable = True


class LeaseLost(PairmillError):
    """Another run took over the snapshot, so this one must write nothing more."""

    exit_code = 75
    retryable = True


class ServiceError(PairmillError):
    """A server that a run needs did not start or does not respond."""

    exit_code = 75
    retryable = True


class JobFailed(PairmillError):
    """A subprocess failed.

    Args:
        message: which process failed, how, and where its log is.
        exit_code: exit code of the subprocess if it has a meaning (75: retryable), else 1.
    """

    def __init__(self, message: str, exit_code: int = 1):
        super().__init__(message)
        self.exit_code = exit_code
        self.retryable = exit_code == 75
