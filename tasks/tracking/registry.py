"""What MLflow tells of the registered models: which snapshots they need, and which versions came of a snapshot.

For gc a server that does not answer is an error, not a no; a trace says that it was not asked.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from dataops.errors import ConfigError, PairmillError
from dataops.snapshot import Manifest, SnapshotName
from dataops.stages import STAGES
from tasks.tracking import client as tracking
from tasks.tracking import rest as mlflow_rest

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

logger = logging.getLogger(__name__)

VERSIONS_AT_ONCE = 1000


def find_needed_snapshots() -> dict[SnapshotName, str]:
    """The snapshots that the tags of every version name, in any registered model of the server, with the version.

    Raises: ServiceError, ConfigError when MLflow does not answer or refuses.
    """
    needed: dict[SnapshotName, str] = {}
    with tracking.mlflow_errors():
        for version in _versions():
            why = f"{version.name} version {version.version}"
            if key := version.tags.get(tracking.KEY_TAG):
                needed[SnapshotName("register", key)] = why
            for stage in STAGES:
                if key := version.tags.get(f"snapshot.{stage}"):
                    needed.setdefault(SnapshotName(stage, key), why)
    return needed


def _versions() -> Iterator["ModelVersion"]:
    client, token = tracking.connect(), None
    while True:
        page = client.search_model_versions(max_results=VERSIONS_AT_ONCE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def find_unknown_models(registered: Mapping[SnapshotName, Manifest]) -> dict[SnapshotName, str]:
    """Those register snapshots whose MLflow run the server has never seen: their versions are in another registry.

    A version that was deleted leaves its run behind (deleted or not), so its snapshot is not among these; but a database
    that was lost, or the wrong server, knows nothing: then nobody can say that the model is not needed.
    """
    from mlflow.exceptions import MlflowException

    unknown: dict[SnapshotName, str] = {}
    with tracking.mlflow_errors():
        client = tracking.connect()
        for name, manifest in registered.items():
            try:
                client.get_run(str(manifest.mlflow_run_id))
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                unknown[name] = "a model that this MLflow server has never seen"
    return unknown


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
        """Of its register snapshot."""
        return self.tags.get(tracking.KEY_TAG)

    @property
    def uri(self) -> str:
        """As MLflow loads it."""
        return f"models:/{self.name}/{self.version}"

    def as_json(self) -> dict[str, Any]:
        """Without the tags that only repeat the snapshots' keys."""
        told = {name: self.tags[name] for name in ("gate", "takedowns", "champion_test") if name in self.tags}
        return {**asdict(self), "aliases": list(self.aliases), "uri": self.uri, "tags": told}


class Registry:
    """Asks MLflow for versions, as long as it answers; once it does not, it is not asked again."""

    def __init__(self, *, ask: bool = True):
        self.trouble = "" if ask else "not asked"
        self._named: dict[str, dict[str, str]] = {}

    def status(self) -> str:
        """`asked`, or why the registry was not."""
        return self.trouble or "asked"

    def of_snapshot(self, stage: str, key: str) -> list[RegisteredVersion]:
        """The versions that were made of a snapshot."""
        return self._search(f"tags.`snapshot.{stage}` = '{key}'")

    def of_key(self, key: str) -> list[RegisteredVersion]:
        """The versions of a register snapshot."""
        return self._search(f"tags.`{tracking.KEY_TAG}` = '{key}'")

    def version(self, name: str, number: str | None, alias: str | None) -> RegisteredVersion | None:
        """One version by its number or alias. Raises: ConfigError for an alias where MLflow does not answer."""
        name = name.replace("'", "")
        found = self._search(f"name = '{name}'")
        if alias is not None and self.trouble:
            raise ConfigError(f"{name}@{alias}: only MLflow knows aliases ({self.trouble}); name the version's number")
        return next((v for v in found if v.version == number or alias in v.aliases), None)

    def _search(self, wanted: str) -> list[RegisteredVersion]:
        """The versions with their aliases, which a search alone does not tell."""
        if self.trouble:
            return []
        try:
            return [replace(found, aliases=self._aliases(found)) for found in _versions_by(wanted)]
        except PairmillError as error:
            self.trouble = f"not asked: {error}"
            logger.warning("%s", error)
            return []

    def _aliases(self, version: RegisteredVersion) -> tuple[str, ...]:
        if version.name not in self._named:
            self._named[version.name] = _aliases_of(version.name)
        return tuple(sorted(alias for alias, number in self._named[version.name].items() if number == version.version))


def _versions_by(wanted: str) -> list[RegisteredVersion]:
    told = mlflow_rest.get("model-versions/search", filter=wanted, max_results=str(VERSIONS_AT_ONCE))
    if told is not None and not told.get("next_page_token"):
        return [_plain_version(one) for one in told.get("model_versions", [])]
    with tracking.mlflow_errors():
        return [_version(found) for found in tracking.connect().search_model_versions(wanted)]


def _aliases_of(name: str) -> dict[str, str]:
    """The version of each alias of a model."""
    told = mlflow_rest.get("registered-models/get", name=name)
    if told is not None:
        return {one["alias"]: str(one["version"]) for one in told["registered_model"].get("aliases", [])}
    with tracking.mlflow_errors():
        aliases = tracking.connect().get_registered_model(name).aliases
        return {alias: str(number) for alias, number in aliases.items()}


def _plain_version(told: Mapping[str, Any]) -> RegisteredVersion:
    tags = {tag["key"]: tag.get("value", "") for tag in told.get("tags", [])}
    return RegisteredVersion(str(told["name"]), str(told["version"]), told.get("run_id"), (), tags)


def _version(found: "ModelVersion") -> RegisteredVersion:
    return RegisteredVersion(found.name, str(found.version), found.run_id, (), dict(found.tags))
