"""Read the JSON objects of a store that outlive a version of pairmill: manifests and run records.

Each has the number of its format in `schema_version`. A version of pairmill that only adds fields
with defaults keeps the number: readers ignore fields that they do not know, and keep them when they
write the object again. Any other change raises it, also a new field that quotes a pair, which a
takedown must find. A newer format is refused.
"""

import json
from contextlib import suppress
from importlib import metadata
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from dataops.errors import ConfigError

RELEASE = metadata.version("pairmill")


class NewerFormat(ConfigError):
    """An object that a newer version of pairmill wrote; this version must neither read nor delete it."""


class Stored(BaseModel):
    """Base class of these objects."""

    model_config = ConfigDict(extra="allow")

    newest_format: ClassVar[int] = 1
    """Formats up to this number can be read."""
    schema_version: int = 1

    @classmethod
    def parse(cls, data: bytes, where: str) -> Self:
        """Return the object.

        Raises: NewerFormat that names the version of pairmill that reads it; ValidationError if it is damaged.
        """
        try:
            found = cls.model_validate_json(data)
        except ValidationError:  # also of a newer format, in which fields have other types
            cls._refuse_newer(data, where)
            raise
        if found.schema_version > cls.newest_format:
            cls._refuse_newer(data, where)
        return found

    @classmethod
    def _refuse_newer(cls, data: bytes, where: str) -> None:
        value: Any = None
        with suppress(ValueError, RecursionError):
            value = json.loads(data)
        number = value.get("schema_version") if isinstance(value, dict) else None
        if not isinstance(number, int) or number <= cls.newest_format:
            return
        code = value.get("code")
        release = value.get("release") or (code.get("release") if isinstance(code, dict) else None)
        raise NewerFormat(
            f"{where} has format {number}, and pairmill {RELEASE} reads formats up to {cls.newest_format}: use pairmill "
            f"{release if isinstance(release, str) else 'of the version that wrote it'} or newer for this store"
        )
