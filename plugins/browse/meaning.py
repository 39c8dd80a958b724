"""Search the images of a dataset by meaning with a CLIP model."""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataops.errors import JobFailed, PairmillError
from dataops.facts import RegisterFacts
from dataops.shards.tar import read_index
from dataops.snapshot import Manifest
from dataops.storage.cached_files import make_held
from plugins.browse.database import quote
from plugins.browse.encoder import Encoder
from plugins.browse.feature_table import FeatureTable, best, image_ids, preparation_digest
from plugins.browse.images import IMAGES, MAX_MEMBER, Images, image_holder
from plugins.browse.views import ROW, Dataset, View
from tasks.lineage.graph import Lineage
from tasks.models.find import ModelFiles, find_model
from training.model_config import MODEL_FILES

logger = logging.getLogger(__name__)

FOUND = 1000
"""Maximum number of images that a search returns."""
FEW = 20_000
"""Number of images whose features are computed without being asked for: some minutes on two cores."""
BATCH = 256
"""Number of images that are encoded before a user's own request is."""


def find_default_model(dataset: Dataset, home: Path) -> ModelFiles | None:
    """Return the model that was trained last on a dataset, or else the newest of its store; None if there is none.

    A registered version is preferred to a model that was only trained. Nothing is asked of MLflow.
    """
    lineage = Lineage(dataset.store)
    trains = [m for m in lineage.manifests.values() if m.stage == "train"]
    own = {m.key for m in lineage.descendants(dataset.manifest, "train")}
    named: list[tuple[bool, bool, str, str, Manifest]] = []
    for train in trains:
        registers = lineage.descendants(train, "register")
        names = [RegisterFacts.of(m).model_uri for m in registers]
        name = names[-1] if names else f"train/{train.key}"
        named.append((train.key in own, bool(names), train.created_at, name, train))
    for *_, name, train in sorted(named, key=lambda one: one[:4], reverse=True):
        if set(MODEL_FILES) <= {part.name for part in train.parts}:
            folder = make_held(home / "browse" / "models" / train.content_digest[:16])
            for file in MODEL_FILES:
                if not (folder / file).exists():
                    dataset.store.download(train.path(file), folder / f"{file}.tmp")
                    (folder / f"{file}.tmp").replace(folder / file)
            return find_model(str(folder), home).model_copy(update={"name": name})
    return None


@dataclass
class Progress:
    """The state of a computation of features."""

    done: int = 0
    total: int = 0
    running: bool = False
    error: str = ""
    stop: threading.Event = field(default_factory=threading.Event)


class Meaning:
    """Features of the rows of a dataset, with one model."""

    def __init__(self, dataset: Dataset, images: Images, model: ModelFiles, home: Path):
        self.dataset, self.model, self.progress = dataset, model, Progress()
        self._images, self._encoder = images, Encoder(model.path)
        name = f"{model.digest[:16]}-{preparation_digest(dataset.stages.get('download'))}"
        self.table = FeatureTable(make_held(home / "browse" / "features" / name))
        self._lock = threading.Lock()
        self._rows: tuple[NDArray[np.int64], NDArray[np.uint64]] | None = None
        self._located: tuple[int, NDArray[np.int64]] | None = None
        self._texts: dict[str, NDArray[np.float32]] = {}

    def _load_rows(self) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Return the numbers of all rows of the dataset, sorted, and the ids of their images (N, 2)."""
        with self._lock:
            if self._rows is None:
                name, database = f"{self.dataset.view(self.dataset.main).name}_all", self.dataset.database
                numbers = np.asarray(database.column(f"SELECT {ROW} FROM {quote(name)}"), np.int64)
                digests = database.column(f"SELECT coalesce(sha256, '') AS sha256 FROM {quote(name)}")
                order = np.argsort(numbers, kind="stable")
                self._rows = numbers[order], image_ids(digests.tolist())[order]
            return self._rows

    def positions(self) -> NDArray[np.int64]:
        """Return the position in the table of each row of the dataset; -1 for an image without a feature."""
        _, ids = self._load_rows()
        with self._lock:
            if self._located is None or self._located[0] != len(self.table):
                self._located = (len(self.table), self.table.locate(ids))
            return self._located[1]

    def coverage(self) -> tuple[int, int]:
        """Return the number of rows whose image has a feature, and of all rows."""
        positions = self.positions()
        return int((positions >= 0).sum()), len(positions)

    # Search ------------------------------------------------------------------------------------------------------------

    def warm_up(self) -> None:
        """Load the model in the background if there are features to search."""
        if len(self.table):
            self._encoder.warm_up()

    def text_query(self, text: str) -> NDArray[np.float32]:
        """Return the feature of a text."""
        if text not in self._texts:
            found = self._encoder.encode_text(text)
            with self._lock:
                self._texts = {**dict(list(self._texts.items())[-50:]), text: found}
        return self._texts[text]

    def image_query(self, data: bytes) -> NDArray[np.float32]:
        """Return the feature of an image file. Raises: ConfigError if it cannot be decoded."""
        return self._encoder.encode_image(data)

    def row_query(self, number: int) -> NDArray[np.float32] | None:
        """Return the feature of a row's image; None if it has none yet."""
        numbers, _ = self._load_rows()
        at = int(np.searchsorted(numbers, number))
        if at >= len(numbers) or numbers[at] != number or self.positions()[at] < 0:
            return None
        return np.asarray(self.table.features()[self.positions()[at]])

    def search(
        self, query: NDArray[np.float32], allowed: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the numbers of the rows that are most similar to a query, best first, and their cosines.

        Args:
            allowed: numbers of the rows that may be returned; None: all.
        """
        numbers, _ = self._load_rows()
        scores = self.table.scores(query, self.positions())
        if allowed is not None:
            scores = np.where(np.isin(numbers, allowed, assume_unique=True), scores, np.float32(-2))
        found = best(scores, FOUND)
        return numbers[found], scores[found]

    # Computation -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Compute the missing features in a thread, unless that runs already."""
        with self._lock:
            if self.progress.running:
                return
            self.progress = Progress(running=True)
        threading.Thread(target=self._compute, args=(self.progress,), name="features", daemon=True).start()

    def start_if_few(self) -> None:
        """Compute the missing features if they are at most FEW; for more, the user has to start it."""
        done, total = self.coverage()
        if 0 < total - done <= FEW:
            self.start()

    def stop(self) -> None:
        """End the computation after its current batch; what is computed is kept."""
        self.progress.stop.set()

    def close(self) -> None:
        """End the computation and the encoder."""
        self.stop()
        self._encoder.close()

    def _compute(self, progress: Progress) -> None:
        try:
            self._compute_missing(progress)
        except PairmillError as error:
            if not progress.stop.is_set():
                progress.error = str(error)
        except Exception as error:
            progress.error = f"{type(error).__name__}: {error}"
            logger.exception("the features of %s could not be computed", self.dataset.manifest.key)
        finally:
            progress.running = False

    def _compute_missing(self, progress: Progress) -> None:
        view = self.dataset.view(self.dataset.main)
        holder = image_holder(self.dataset, view)
        if holder is None:
            raise JobFailed("the rows of this stage have no images yet; browse a dataset whose download is complete")
        progress.done, progress.total = self.coverage()
        shards = [row["shard"] for row in self._query("SELECT DISTINCT shard FROM {} WHERE shard IS NOT NULL", view)]
        for shard in sorted(shards):
            rows = self._query("SELECT key, sha256 FROM {} WHERE shard = ?", view, [shard])
            ids = image_ids([row["sha256"] for row in rows])
            is_missing = (self.table.locate(ids) < 0) & ids.any(axis=1)
            _, first = np.unique(ids, axis=0, return_index=True)  # several captions may share an image
            missing = np.sort(first)[is_missing[np.sort(first)]]
            if len(missing):
                self._encode_shard(progress, holder, shard, [(str(rows[n]["key"]), ids[n]) for n in missing])
            progress.done = self.coverage()[0]
            if progress.stop.is_set():
                return

    def _query(self, sql: str, view: View, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        return self.dataset.database.rows(sql.format(quote(view.name)), parameters)

    def _encode_shard(
        self, progress: Progress, holder: Manifest, shard: str, wanted: Sequence[tuple[str, NDArray[np.uint64]]]
    ) -> None:
        index = self._images.index(holder.stage, shard).decode("ascii", "replace")
        members = {
            member.key: (member.offset, member.size)
            for sample in read_index(index, shard)
            for member in sample.values()
            if member.extension.lower() in IMAGES and member.size <= MAX_MEMBER
        }
        rows = [(members[key], identity) for key, identity in wanted if key in members]
        path = self.dataset.store.local(holder.path(shard))
        for start in range(0, len(rows), BATCH):
            if progress.stop.is_set():
                return
            batch = rows[start : start + BATCH]
            features = self._encoder.encode_shard(path, [span for span, _ in batch])
            self.table.add(np.stack([identity for _, identity in batch]), features)
            progress.done += len(batch)
