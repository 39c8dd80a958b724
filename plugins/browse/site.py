"""What a server of `pairmill browse` holds: the dataset, the database, images, and the search by meaning."""

import shutil
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataops.errors import ConfigError
from dataops.home import private_folder
from dataops.snapshot import Manifest
from dataops.storage.cached_files import SESSIONS, delete_unheld, find_abandoned, hold
from dataops.store import FolderStore, Store
from plugins.browse.database import Database
from plugins.browse.images import Images, NoImage, image_holder
from plugins.browse.meaning import Meaning, find_default_model
from plugins.browse.record import SourceFiles
from plugins.browse.rows import PAGE_ROWS, Selection, count_rows, fetch_rows, list_numbers, list_rows
from plugins.browse.views import Dataset
from tasks.models.find import find_model

MAX_UPLOADS = 20
"""Number of images of the user that are remembered as queries."""


@dataclass(frozen=True)
class Query:
    """What a list of rows shows: a selection, and perhaps what it is ordered by."""

    selection: Selection
    text: str = ""
    """Text to which the images should be similar."""
    like: str = ""
    """A row's number, or `upload-N`: an image to which the images should be similar."""

    @property
    def by_meaning(self) -> bool:
        """Whether the rows are ordered by their similarity."""
        return bool(self.text or self.like)


@dataclass(frozen=True)
class Found:
    """A page of rows; `scores` are their cosines, if they were found by meaning."""

    total: int
    rows: list[dict[str, Any]]
    scores: dict[int, float] = field(default_factory=dict)


class Site:
    """The state of one server.

    Args:
        dataset: the dataset to show, and its store.
        model: name of the model to search with; by default one of the store.
    """

    def __init__(self, dataset: tuple[Manifest, Store], model: str | None, home: Path):
        manifest, self.store = dataset
        self.home, self._session = home, Session(home)
        folders = [self.store.root] if isinstance(self.store, FolderStore) else []
        self.database = Database([*folders, self._session.folder], self._session.folder)
        self._uploads: dict[str, NDArray[np.float32]] = {}
        self._lock = threading.RLock()
        self.dataset = Dataset(manifest, self.store, self.database, self._session.folder / "copies")
        self.images = Images(self.dataset, home / "browse" / "indexes")
        self.sources = SourceFiles(self.dataset.stages.get("extract"), self.store, home)
        self._model_name, self._meaning, self._looked = model, None, False
        if model is not None:
            self.meaning()  # a wrong name ends the command before a page is shown
        self.dataset.view(self.dataset.main)

    @property
    def folder(self) -> Path:
        """A private folder that is deleted at the end."""
        return self._session.folder

    def close(self) -> None:
        """End the processes and delete the copies."""
        if self._meaning is not None:
            self._meaning.close()
        self.database.close()
        self._session.close()

    # Meaning -----------------------------------------------------------------------------------------------------------

    def meaning(self) -> Meaning | None:
        """Return the search by meaning; None if the store has no model and none was named."""
        with self._lock:
            if not self._looked:
                if self._model_name is None:
                    model = find_default_model(self.dataset, self.home)
                else:
                    model = find_model(self._model_name, self.home)
                if model is not None:
                    self._meaning = Meaning(self.dataset, self.images, model, self.home)
                self._looked = True
            return self._meaning

    def need_meaning(self) -> Meaning:
        """Return the search by meaning. Raises: ConfigError if there is no model."""
        meaning = self.meaning()
        if meaning is None:
            raise ConfigError(
                f"{self.store.uri} has no trained model to search with; name one: pairmill browse --model models:/NAME/1"
            )
        return meaning

    def add_upload(self, data: bytes) -> str:
        """Encode an image of the user, and return the name of the query."""
        feature = self.need_meaning().image_query(data)
        with self._lock:
            number = 1 + max((int(name.removeprefix("upload-")) for name in self._uploads), default=0)
            self._uploads[f"upload-{number}"] = feature
            for name in list(self._uploads)[:-MAX_UPLOADS]:
                del self._uploads[name]
            return f"upload-{number}"

    # Rows --------------------------------------------------------------------------------------------------------------

    def find(self, query: Query, offset: int) -> Found:
        """Return a page of rows, with the number of all."""
        selection, database = query.selection, self.database
        if not query.by_meaning:
            return Found(count_rows(database, selection), list_rows(database, selection, offset))
        meaning, view = self.need_meaning(), selection.view
        if view.label != self.dataset.main:
            raise ConfigError(f"search by meaning is over the rows {self.dataset.main}; choose these rows")
        if query.like:
            meaning.start_if_few()
        elif not len(meaning.table):  # the model need not be loaded
            return Found(0, [])
        if (feature := self._feature(query, meaning)) is None:
            return Found(0, [])
        numbers, scores = meaning.search(feature, self._chosen(query))
        page = slice(offset, offset + PAGE_ROWS)
        by_number = dict(zip(numbers[page].tolist(), scores[page].tolist(), strict=True))
        return Found(len(numbers), fetch_rows(database, view, list(by_number)), by_number)

    def _chosen(self, query: Query) -> NDArray[np.int64] | None:
        """Return the numbers of the rows that the filters choose; None if they choose all."""
        filters = query.selection.condition.sql or query.selection.view.hides_rows
        return list_numbers(self.database, query.selection) if filters else None

    def _feature(self, query: Query, meaning: Meaning) -> NDArray[np.float32] | None:
        """Return the feature of a query; None if it is that of a row and is being computed."""
        if query.text:
            return meaning.text_query(query.text)
        if query.like in self._uploads:
            return self._uploads[query.like]
        if not query.like.isdecimal():
            raise ConfigError("this image is no longer known; choose it again")
        number, view = int(query.like), query.selection.view
        if not (rows := fetch_rows(self.database, view, [number])):
            raise ConfigError("there is no such row to compare with")
        if (feature := meaning.row_query(number)) is not None or meaning.progress.running:
            return feature
        holder = image_holder(self.dataset, view)
        if holder is None or not rows[0].get("shard"):
            raise ConfigError("this row has no image to compare with")
        try:
            return meaning.image_query(self.images.read(holder.stage, rows[0]["shard"], str(rows[0]["key"])))
        except NoImage as error:
            raise ConfigError(f"this image cannot be compared with: {error}") from error


class Session:
    """A private folder of this process, deleted at its end; those of killed processes are deleted too."""

    def __init__(self, home: Path):
        private_folder(home / "browse")
        sessions = private_folder(home / SESSIONS)
        for folder in find_abandoned(home):
            delete_unheld(folder)
        while not hold(
            folder := Path(tempfile.mkdtemp(dir=sessions))
        ):  # another process may have deleted it as abandoned
            pass
        self.folder = folder

    def close(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
