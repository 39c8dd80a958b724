"""The files of a publication: of a dataset those beside its shards with a card for the place, of a model an export."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataops import plugins
from dataops.digest import file_sha256
from dataops.errors import CorruptPart
from dataops.snapshot import MANIFEST, Manifest, Part
from dataops.store import Store
from dataops.trace.lineages import Lineage
from plugins.publish.publications import PublishedFile
from tasks.pack.card import MARKDOWN_PAGE, render_markdown
from tasks.pack.card_text import DatasetFacts

CARD = "README.md"
"""The card, under the name that the Hub and `datasets` read."""


@dataclass(frozen=True)
class BundleFile:
    """A file to publish."""

    name: str
    bytes: int
    sha256: str
    open_local: Callable[[], Path]
    """Return a local file with the content."""

    def fetch(self) -> Path:
        """Return the local file after a comparison of its content with its digest. Raises: CorruptPart."""
        path = self.open_local()
        if file_sha256(path) != self.sha256:
            raise CorruptPart(f"{self.name} differs from its sha256 in the manifest; it was not published")
        return path

    def as_published(self) -> PublishedFile:
        """Return the entry of its record."""
        return PublishedFile(name=self.name, bytes=self.bytes, sha256=self.sha256)


def list_dataset_files(
    pack: Manifest,
    lineages: Sequence[Lineage],
    store: Store,
    scratch: Path,
    license_: str,
    hub: str,
    links: Mapping[str, Any],
) -> list[BundleFile]:
    """Return the shards, indexes and tables of a dataset, its card, its further documents and its manifest.

    The page for a browser is left out: it shows pairs that were dropped, also because of an opt-out.

    Args:
        pack: a snapshot, or a version of a dataset that grows, whose files are in a folder for each of its datasets.
        lineages: what it was made of.
        license_: of the dataset as a whole; "": only those of its pairs are known.
        hub: `OWNER/NAME` on the Hub; "" elsewhere.
        links: fields of documents in JSON-LD that only the place knows.
    """
    facts = DatasetFacts.read(pack, lineages, license_, hub)
    card = render_markdown(facts)
    further = {one.file: json.loads(one.write(facts)) | dict(links) for one in plugins.load("documents").values()}
    parts = [*pack.named("", ".tar"), *pack.named("", ".idx"), *pack.named("part-")]
    documents = {MARKDOWN_PAGE: card, CARD: card, MANIFEST: _describe_parts(pack, parts)}
    documents |= {name: json.dumps(document, indent=1) + "\n" for name, document in further.items()}
    files = [
        BundleFile(part.name, part.bytes, part.sha256, lambda name=part.name: store.local(pack.path(name)))
        for part in sorted(parts, key=lambda part: part.name)
    ]
    return [*files, *(_write(scratch, name, text) for name, text in documents.items())]


def _describe_parts(pack: Manifest, parts: Sequence[Part]) -> str:
    """Return the manifest with the published parts only, without the ids of runs.

    The fingerprint of the uids of one dropped row would be the uid of a removed pair.
    """
    listed = [part.model_copy(update={"uid_sum": None}) for part in parts]
    update = {"parts": listed, "table": None, "prefect_flow_run_id": None, "mlflow_run_id": None}
    return pack.model_copy(update=update).model_dump_json(indent=2)


def _write(folder: Path, name: str, text: str) -> BundleFile:
    data = text.encode("utf-8", "replace")
    path = folder / name
    path.write_bytes(data)
    return BundleFile(name, len(data), hashlib.sha256(data).hexdigest(), lambda: path)


def list_folder_files(paths: Sequence[Path]) -> list[BundleFile]:
    """Return the files of an export."""
    return [BundleFile(path.name, path.stat().st_size, file_sha256(path), lambda path=path: path) for path in paths]
