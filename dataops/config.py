"""The base of every stage's config table, and the tables in the type of a key."""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict

from dataops.errors import ConfigError


class StageConfig(BaseModel):
    """A stage's own table in the config file: frozen, strict about names, documented field by field."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    execution_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields that set how the work is done and cannot change what comes out: they stay out of the snapshot's key."""

    later_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields that are in the snapshot's key only where they differ from their defaults.

    A new field whose default changes nothing is listed here, so that the keys of existing configs stay as they are."""

    def key_config(self) -> dict[str, Any]:
        """Return the fields that decide the output, as JSON values."""
        return self.model_dump(mode="json", exclude={*self.execution_fields, *self.unset_later_fields()})

    def unset_later_fields(self) -> set[str]:
        """Return those of `later_fields` that have their defaults."""
        return {name for name in self.later_fields if getattr(self, name) == type(self).model_fields[name].default}

    def problems(self) -> list[str]:
        """Return what is wrong with the files and libraries that the table names: a line each, which begins with the path
        inside the table. No data is read for it.
        """
        return []


def problems_of(path: str, check: Callable[[], object]) -> list[str]:
    """Call `check` and return the message of its ConfigError as a problem of the field `path`, or nothing."""
    try:
        check()
    except ConfigError as error:
        return [f"{path}: {error}"]
    return []


def tables_of(annotation: Any) -> list[type[BaseModel]]:
    """Return the models in a type: in an optional one, a union, a list or a table of them."""

    def find(inner: Any) -> Iterator[type[BaseModel]]:
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield inner
        for argument in get_args(inner):
            yield from find(argument)

    return list(dict.fromkeys(find(annotation)))
