"""Query MLflow's registry: the versions of a snapshot.

A trace continues without a server that does not answer, and its result states that.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from dataops.errors import ConfigError, PairmillError
from tasks.tracking import client as tracking
from tasks.tracking import rest

logger = logging.getLogger(__name__)

VERSIONS_AT_ONCE = 1000
MODEL = re.compile(r"(?:models:/)?(?P<name>[^/@]{1,128})(?:/(?P<version>\d+)|@(?P<alias>[A-Za-z_][\w-]*))")


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of a registered model."""

    name: str
    version: str
    run_id: str | None = None
    aliases: tuple[str, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str | None:
        """Key of its register snapshot."""
        return self.tags.get(tracking.KEY_TAG)

    @property
    def uri(self) -> str:
        """The URI by which MLflow loads it."""
        return f"models:/{self.name}/{self.version}"

    def as_json(self) -> dict[str, Any]:
        """Return its fields, without the tags that repeat the keys of snapshots."""
        tags = {name: self.tags[name] for name in ("gate", "takedowns", "champion_test") if name in self.tags}
        return {**asdict(self), "aliases": list(self.aliases), "uri": self.uri, "tags": tags}


class Registry:
    """Queries MLflow for versions until a request fails; later queries then return nothing.

    Args:
        query: if False, send no request at all.
    """

    def __init__(self, *, query: bool = True):
        self.error = "" if query else "not asked"
        self._aliases_by_model: dict[str, dict[str, str]] = {}

    def status(self) -> str:
        """Return `asked`, or why the registry was not asked."""
        return self.error or "asked"

    def of_snapshot(self, stage: str, key: str) -> list[RegisteredVersion]:
        """Return the versions that descend from a snapshot, each once."""
        found = self._search(f"tags.`snapshot.{stage}` = '{key}'")
        if stage == "pack":
            found += self._search(f"tags.`{tracking.DATASETS_TAG}` LIKE '%{key}%'")
        return list({version.uri: version for version in found}.values())

    def of_key(self, key: str) -> list[RegisteredVersion]:
        """Return the versions of a register snapshot."""
        return self._search(f"tags.`{tracking.KEY_TAG}` = '{key}'")

    def version(self, name: str, number: str | None, alias: str | None) -> RegisteredVersion | None:
        """Return one version by its number or alias. Raises: ConfigError for an alias if MLflow does not answer."""
        name = name.replace("'", "")
        found = self._search(f"name = '{name}'")
        if alias is not None and self.error:
            raise ConfigError(f"{name}@{alias}: aliases are in MLflow only ({self.error}); name the version's number")
        return next((v for v in found if v.version == number or alias in v.aliases), None)

    def _search(self, criteria: str) -> list[RegisteredVersion]:
        """Return the matching versions with their aliases, which MLflow's search does not return."""
        if self.error:
            return []
        try:
            return [replace(found, aliases=self._find_aliases(found)) for found in _search_versions(criteria)]
        except PairmillError as error:
            self.error = f"not asked: {error}"
            logger.warning("%s", error)
            return []

    def _find_aliases(self, version: RegisteredVersion) -> tuple[str, ...]:
        if version.name not in self._aliases_by_model:
            self._aliases_by_model[version.name] = _read_aliases(version.name)
        aliases = self._aliases_by_model[version.name]
        return tuple(sorted(alias for alias, number in aliases.items() if number == version.version))


def _search_versions(criteria: str) -> list[RegisteredVersion]:
    found = rest.get("model-versions/search", filter=criteria, max_results=str(VERSIONS_AT_ONCE))
    if found is not None and not found.get("next_page_token"):
        return [_parse_version(version) for version in found.get("model_versions", [])]
    with tracking.mlflow_errors():
        return [
            RegisteredVersion(v.name, str(v.version), v.run_id, (), dict(v.tags))
            for v in tracking.connect().search_model_versions(criteria)
        ]


def _read_aliases(name: str) -> dict[str, str]:
    """Return the aliases of a model, with their versions."""
    found = rest.get("registered-models/get", name=name)
    if found is not None:
        return {one["alias"]: str(one["version"]) for one in found["registered_model"].get("aliases", [])}
    with tracking.mlflow_errors():
        aliases = tracking.connect().get_registered_model(name).aliases
        return {alias: str(number) for alias, number in aliases.items()}


def _parse_version(fields: Mapping[str, Any]) -> RegisteredVersion:
    tags = {tag["key"]: tag.get("value", "") for tag in fields.get("tags", [])}
    return RegisteredVersion(str(fields["name"]), str(fields["version"]), fields.get("run_id"), (), tags)


def is_model(text: str) -> bool:
    """Return whether a text names a model version."""
    return "://" not in text and MODEL.fullmatch(text) is not None
