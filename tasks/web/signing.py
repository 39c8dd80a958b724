"""The seam of signed requests, for downloads and crawls.

An entry point of `pairmill.signers` names a `Signer`. Its table extends `[download]`, and `[source]` of `kind = "site"`.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from pydantic import BaseModel

from dataops import plugins
from dataops.config import problems_of

KIND = "signers"
Sign = Callable[[str, str], dict[str, str]]
"""Returns the headers that sign one GET request, for the scheme and the authority (host and port) of its URL."""
ConfigT = TypeVar("ConfigT", bound=BaseModel)


class Signer:
    """A registered object: the base class."""

    config: type[BaseModel]
    table: str
    problem_key: str
    """Path in the config of what `open` may refuse, such as `identity.key_file`."""

    @property
    def execution_fields(self) -> frozenset[str]:
        """Who asks changes no output."""
        return frozenset({self.table})

    def open(self, table: Any, *, is_worker: bool = False) -> Sign:
        """Return what signs requests by the values of its table.

        Args:
            is_worker: whether the run checked the table before, perhaps on another machine.

        Raises: ConfigError that names the file, this machine and the remedy.
        """
        raise NotImplementedError


def open_signer(config: BaseModel, *, is_worker: bool = False) -> Sign | None:
    """Return what signs requests by the tables of a config; None if none of them is set. Raises: ConfigError."""
    signs = [signer.open(table, is_worker=is_worker) for signer, table in _tables(config)]
    if not signs:
        return None
    return lambda scheme, authority: {name: value for sign in signs for name, value in sign(scheme, authority).items()}


def find_signer_problems(config: BaseModel) -> list[str]:
    """Return why requests cannot be signed, a line each with the path in the config, or nothing."""
    return [
        line
        for signer, table in _tables(config)
        for line in problems_of(signer.problem_key, lambda signer=signer, table=table: signer.open(table))
    ]


def sign_as(config: ConfigT, other: BaseModel) -> ConfigT:
    """Return a config whose requests are signed as those of another, unless it has the table itself."""
    tables = {signer.table: table for signer, table in _tables(other) if getattr(config, signer.table, 0) is None}
    return config.model_copy(update=tables) if tables else config


def _tables(config: BaseModel) -> Iterator[tuple[Signer, Any]]:
    signers: list[Signer] = list(plugins.load(KIND).values())
    for signer in signers:
        if (table := getattr(config, signer.table, None)) is not None:
            yield signer, table
