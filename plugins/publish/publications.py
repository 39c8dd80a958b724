"""Record what was published where, in the store: a later takedown names it.

    publications/<digest>.json    one dataset or model at one place; the digest is over both names

A record is written before the first file is sent, so that a killed publication is known too.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from dataops.config import FrozenModel
from dataops.digest import canonical_json, text_sha256
from dataops.errors import CorruptPart
from dataops.store import Store

FOLDER = "publications"
HUB = "hub:"


class PublishedFile(FrozenModel):
    """A file at the place."""

    name: str
    bytes: int
    sha256: str


class Publication(BaseModel):
    """publications/<digest>.json."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    target: str
    """The place: `hub:OWNER/NAME`, `s3://bucket/prefix` or a folder."""
    kind: Literal["dataset", "model"]
    name: str
    """`pack/KEY`, `LINE/NUMBER`, `train/KEY`, `models:/NAME/VERSION` or the name of a folder."""
    datasets: tuple[str, ...]
    """Keys of the datasets that are published, or that the model was trained on."""
    license: str
    is_public: bool
    state: Literal["sending", "complete", "replaced"]
    """`replaced`: the place holds a later publication, and no file of this one that differs."""
    began_at: str
    published_at: str | None = None
    revision: str | None = None
    """Commit of the Hub."""
    files: tuple[PublishedFile, ...]

    @property
    def object_name(self) -> str:
        """Name of the record in the store."""
        digest = text_sha256(canonical_json([self.target, self.name]))[:16]
        return f"{FOLDER}/{digest}.json"

    def as_json(self) -> dict[str, Any]:
        """Return what a report shows of it."""
        fields = self.model_dump(mode="json", exclude={"files", "datasets"})
        return {**fields, "files": len(self.files), "bytes": sum(file.bytes for file in self.files)}

    def explain_removal(self, next_version: str | None) -> str:
        """Return what to do so that the place no longer has removed pairs.

        Args:
            next_version: key of the dataset version without them.
        """
        if self.kind == "model":
            return f"retrain it on dataset {next_version or 'without these pairs'}, publish that there, and delete this one"
        what = next_version or "NEXT_VERSION" if self.name.startswith("pack/") else self.name
        publish = f"run `pairmill publish {what} --to {self.target}`"
        if self.target.startswith(HUB):
            return (
                f"{publish}, then delete the earlier files from the repository's history "
                "(its settings, or HfApi.super_squash_history and permanently_delete_lfs_files)"
            )
        return f"{publish}, which deletes the files that have them"


def record_publication(store: Store, publication: Publication) -> None:
    """Write or replace a record."""
    store.put(publication.object_name, publication.model_dump_json(indent=1).encode())


def list_publications(store: Store) -> list[Publication]:
    """Return all records of a store, oldest first.

    Raises: CorruptPart if one is damaged.
    """
    found: list[Publication] = []
    for name in store.names(FOLDER):
        try:
            found.append(Publication.model_validate_json(store.read(name)))
        except ValidationError as error:
            raise CorruptPart(
                f"{store.uri}/{name} is no record of a publication; delete it, and publish again"
            ) from error
    return sorted(found, key=lambda one: (one.began_at, one.name))


def list_removals(store: Store, datasets: Collection[str], versions: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return where one of these datasets, or a model trained on one, was published, with what to do there.

    Replaced publications are left out, but for those on the Hub, which stay in the history of its repository.

    Args:
        versions: the next version of each dataset that a takedown replaced.
    """
    found = [one for one in list_publications(store) if one.state != "replaced" or one.target.startswith(HUB)]
    return [
        {
            **one.as_json(),
            "remedy": one.explain_removal(next((versions[key] for key in one.datasets if key in versions), None)),
        }
        for one in found
        if not set(datasets).isdisjoint(one.datasets)
    ]


def list_stale(store: Store, place: tuple[str, str], files: Sequence[PublishedFile]) -> list[PublishedFile]:
    """Return the files that earlier publications put at a place (target and kind), with names that none of `files` has."""
    earlier = (one for one in list_publications(store) if (one.target, one.kind) == place)
    found = {file.name: file for one in earlier for file in one.files}
    return [found[name] for name in sorted(found.keys() - {file.name for file in files})]
