"""A small dataset with its stages, opened for queries; a site over it, and a client that asks it without a network."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import httpx
import numpy as np
import pytest

from dataops.snapshot import Manifest
from dataops.store import FolderStore
from plugins.browse import meaning
from plugins.browse.database import Database
from plugins.browse.meaning import NamedModel
from plugins.browse.server import build_app
from plugins.browse.site import Site
from plugins.browse.tests.stored_dataset import Ask, remember_run, stored
from plugins.browse.views import Dataset
from tasks.models.find import ModelFiles


@pytest.fixture
def database(stored: tuple[FolderStore, dict[str, Manifest]], tmp_path: Path) -> Iterator[Database]:
    found = Database([stored[0].root, tmp_path], tmp_path)
    yield found
    found.close()


@pytest.fixture
def dataset(stored: tuple[FolderStore, dict[str, Manifest]], database: Database, tmp_path: Path) -> Dataset:
    store, manifests = stored
    return Dataset(manifests["pack"], store, database, tmp_path / "copies")


__all__ = ["stored"]  # a fixture
BASE, PORT, TOKEN = "http://127.0.0.1:8123", 8123, "the-token"


class ColourEncoder:
    """Encodes an image as its mean colour, and a text as the colour that it names."""

    colours: ClassVar = {"red": [1, 0, 0], "green": [0, 1, 0], "blue": [0, 0, 1]}

    def __init__(self, *_: Any) -> None:
        self.batches = 0

    def encode_text(self, text: str) -> np.ndarray:
        return np.array(self.colours.get(text, [0.6, 0.6, 0.5]), np.float32)

    def encode_image(self, data: bytes) -> np.ndarray:
        return self.colour(data)

    def encode_shard(self, shard: Path, spans: Any) -> np.ndarray:
        self.batches += 1
        data = shard.read_bytes()
        return np.stack([self.colour(data[start : start + size]) for start, size in spans])

    @staticmethod
    def colour(data: bytes) -> np.ndarray:
        from dataops.images.decode import decode_pixels

        mean = decode_pixels(data).reshape(-1, 3).mean(axis=0).astype(np.float32)
        return mean / np.linalg.norm(mean)

    def warm_up(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture(scope="package")
def site(stored: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    store, manifests = stored
    home = remember_run(tmp_path_factory.mktemp("home"))
    files = ModelFiles(name="models:/tiny/1", path=home, digest="d" * 64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meaning, "Encoder", ColourEncoder)
        patch.setattr("plugins.browse.site.find_default_model", lambda *_: NamedModel("models:/tiny/1", files))
        found = Site((manifests["pack"], store), None, home)
        yield found
        found.close()
    assert not list((home / "browse" / "sessions").iterdir())


@pytest.fixture(scope="package")
def ask(site: Site) -> Ask:
    app: Any = build_app(site, PORT, TOKEN)

    def ask(path: str, method: str = "GET", **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE) as client:
                found = re.search("[^;]*", (await client.get("/", params={"token": TOKEN})).headers["set-cookie"])
                assert found is not None
                headers = {"cookie": found[0], "origin": BASE} | options.pop("headers", {})
                return await client.request(method, path, headers=headers, **options)

        return asyncio.run(send())

    return ask
