"""The base of every stage's config table, the type of paths in a config, and the tables in the type of a key."""

import os
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    SerializationInfo,
    ValidationInfo,
)

from dataops.errors import ConfigError
from dataops.home import project_folder, recorded_base

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|hf-hub:")  # s3://bucket, models:/name/3
RECORDED = {"recorded": True}
"""Context in which `model_dump` returns paths as records and keys have them: see `recorded_path`."""


def absolute_path(text: str, folder: Path | None = None) -> str:
    """Return a path of a config in a folder as an absolute one; without a folder, that of a run record.

    Those of a record start at `recorded_base`. `..` is not resolved, so that `recorded_path` knows what was written
    relative. URIs and empty texts stay as they are.
    """
    if not text or _URI.match(text):
        return text
    text = os.path.expanduser(text)  # noqa: PTH111  a pathlib.Path has no trailing slash
    return (
        text if text.startswith("/") else f"{folder or recorded_base() or project_folder()}/{text.removeprefix('./')}"
    )


def recorded_path(path: str | Path) -> str:
    """Return a path relative to the folder of the home if it lies there or was written so: the same in a moved project."""
    return str(path).removeprefix(f"{base}/") if (base := recorded_base()) else str(path)


def _write_path(path: str | Path, info: SerializationInfo) -> str:
    return recorded_path(path) if info.context == RECORDED else str(path)


def resolve_path(path: Any, info: ValidationInfo) -> Any:
    """Return a string or a Path of a config as an absolute one, by the folder in the context of the validation."""
    if "\0" in str(path):
        raise ValueError("no path has a NUL character; remove it")
    return type(path)(absolute_path(str(path), (info.context or {}).get("folder")))


PATH = AfterValidator(resolve_path), PlainSerializer(_write_path, when_used="json")
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0, le=1)]
"""A number from 0 to 1."""
ConfigPath = Annotated[str, *PATH]
"""A file, folder or glob of this machine, or a URI."""


def _resolve_file(name: str, info: ValidationInfo) -> str:
    return resolve_path(name, info) if "/" in name or name.endswith(".json") else name


NameOrPath = Annotated[str, AfterValidator(_resolve_file), PATH[1]]
"""A name that has no slash, or the path of a JSON file."""


SCHEDULED: ContextVar[datetime | None] = ContextVar("SCHEDULED", default=None)
"""The time for which the run is scheduled whose config is read; None for a run that nothing has scheduled."""


class FrozenModel(BaseModel):
    """A model that is immutable, and rejects unknown fields and numbers that are not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StageConfig(FrozenModel):
    """A stage's own table in the config file: frozen, strict about names, documented field by field."""

    model_config = ConfigDict(validate_default=True)

    execution_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields that set how the work is done and cannot change what comes out: they stay out of the snapshot's key."""

    plugin_fields: ClassVar[dict[str, tuple[str, int]]] = {}
    """Name and version of the plugin that adds a field, by field (`dataops.plugins.extend`)."""

    _base: Any = PrivateAttr(default=None)

    @property
    def base(self) -> Any:
        """The version that the run's dataset adds to (tasks.growth.versions.Version); None if the dataset does not grow."""
        return self._base

    def with_base(self, base: Any) -> Self:
        """Return the table for a run that adds to a version of its dataset."""
        changed = self.model_copy()
        changed._base = base
        return changed

    def base_inputs(self) -> list[Any]:
        """Return the version that the dataset adds to as an input of a stage."""
        return [] if self._base is None else [self._base.as_input()]

    def key_config(self) -> dict[str, Any]:
        """Return the fields that decide the output, as JSON values, those of tables as they return them.

        Fields of plugins are among them only where they differ from their defaults; `plugins` then has the versions.
        """
        fields = type(self).model_fields
        defaults = {name: fields[name].get_default(call_default_factory=True) for name in self.plugin_fields}
        unused = {name for name, default in defaults.items() if getattr(self, name) == default} | self.execution_fields
        values = self.model_dump(mode="json", exclude=set(unused), context=RECORDED)
        values |= {name: table.key_config() for name, table in self._tables() if name in values}
        if used := dict(found for name, found in sorted(self.plugin_fields.items()) if name not in unused):
            values["plugins"] = used
        return values

    def within(self, run: Any) -> Self:
        """Return the table with what it takes from the others of a run's config (RunConfig)."""
        return self

    def problems(self) -> list[str]:
        """Return what is wrong with the files and libraries that the table names: a line each, which begins with the path
        inside the table. No data is read for it.
        """
        return [f"{name}.{line}" for name, table in self._tables() for line in table.problems()]

    def _tables(self) -> list[tuple[str, "StageConfig"]]:
        """Return the tables in it that are set."""
        values = ((name, getattr(self, name)) for name in type(self).model_fields)
        return [(name, value) for name, value in values if isinstance(value, StageConfig)]


class SourceOrder(StageConfig):
    """The table of a stage that keeps one of several duplicates by the order of the sources, which is in its key."""

    _sources: tuple[str, ...] = PrivateAttr(default=())

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of several sources, in the order in which their duplicates are kept; () for one source."""
        return self._sources

    def within(self, run: Any) -> Self:
        names = tuple(table.name for table in run.source.tables if table.name)
        return self.with_sources(names) if len(names) > 1 else self

    def with_sources(self, names: tuple[str, ...]) -> Self:
        """Return the config for pairs of these sources."""
        changed = self.model_copy()
        changed._sources = names
        return changed

    def key_config(self) -> dict[str, Any]:
        """Return the fields that decide the output, with the order of several sources."""
        return super().key_config() | ({"sources": list(self._sources)} if self._sources else {})


def problems_of(path: str, check: Callable[[], object]) -> list[str]:
    """Call `check` and return the message of its error as a problem of the field `path`, or nothing."""
    try:
        check()
    except (ConfigError, ValueError) as error:  # such as a name with a NUL
        return [f"{path}: {error}"]
    return []


def tables_of(annotation: object) -> list[type[BaseModel]]:
    """Return the models in a type: in an optional one, a union, a list or a table of them."""

    def find(inner: object) -> Iterator[type[BaseModel]]:
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield inner
        for argument in get_args(inner):
            yield from find(argument)

    return list(dict.fromkeys(find(annotation)))
