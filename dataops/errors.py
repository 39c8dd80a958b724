"""The errors that pairmill raises on purpose, and the exit code that each one means.

PairmillError
├── ConfigError            2   the config or the command line is wrong
├── ContractError          3   data broke the contract between stages
│   ├── SchemaError            columns or types are not those of the contract
│   └── CorruptPart            a part's bytes are not those of its manifest
├── TrainingDiverged       4   loss or gradients are not finite
├── GateRefused            5   the model is below a floor
├── SourceError           75   an archive, list or site could not be read (retryable)
├── StorageError          75   the store failed (retryable)
├── LeaseLost             75   another run has taken the making of a snapshot over (retryable)
├── ServiceError          75   Prefect or MLflow did not start or answer (retryable)
└── JobFailed              1   a subprocess ended badly; 75 where it said so

A bad sample is a row, a bad part is one of these, a bad run is a failed flow. Exit codes speak to the scheduler: 75
(EX_TEMPFAIL of sysexits.h) means that trying again may help.
"""

from dataops.redaction import redact


class PairmillError(Exception):
    """Base of every deliberate error. `retryable` says whether trying again may help. Its texts hold no secret."""

    exit_code: int = 1
    retryable: bool = False

    def __init__(self, *texts: str):
        super().__init__(*(redact(str(text)) for text in texts))


class ConfigError(PairmillError):
    """The config or the command line is wrong; all problems are reported together."""

    exit_code = 2


class ContractError(PairmillError):
    """Data broke the contract between stages."""

    exit_code = 3


class SchemaError(ContractError):
    """Columns or types are not those of the contract."""


class CorruptPart(ContractError):
    """A part is missing or its bytes are not those that its manifest names."""


class TrainingDiverged(PairmillError):
    """Loss or gradients are not finite."""

    exit_code = 4


class GateRefused(PairmillError):
    """The evaluated model is below a floor of the config, or worse than the champion."""

    exit_code = 5


class SourceError(PairmillError):
    """An archive, list or site could not be read."""

    exit_code = 75
    retryable = True


class StorageError(PairmillError):
    """The store failed."""

    exit_code = 75
    retryable = True


class LeaseLost(PairmillError):
    """Another run has taken over the making of a snapshot: what this one still wrote would be in its way."""

    exit_code = 75
    retryable = True


class ServiceError(PairmillError):
    """A server that a run needs did not start or does not answer."""

    exit_code = 75
    retryable = True


class JobFailed(PairmillError):
    """A subprocess ended badly.

    Args:
        message: what ended, how, and where its log is.
        exit_code: that of the subprocess where it carries a meaning (75: try again), else 1.
    """

    def __init__(self, message: str, exit_code: int = 1):
        super().__init__(message)
        self.exit_code = exit_code
        self.retryable = exit_code == 75
