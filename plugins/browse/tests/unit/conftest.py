"""A small dataset with its stages, opened for queries; a site over it, and a client that asks it without a network."""

import asyncio
import re
from typing import ClassVar

import httpx
import numpy as np
import pytest

from plugins.browse import meaning
from plugins.browse.database import Database
from plugins.browse.server import build_app
from plugins.browse.site import Site
from plugins.browse.tests.stored_dataset import remember_run, stored
from plugins.browse.views import Dataset
from tasks.models.find import ModelFiles


@pytest.fixture
def database(stored, tmp_path):
    found = Database([stored[0].root, tmp_path], tmp_path)
    yield found
    found.close()


@pytest.fixture
def dataset(stored, database, tmp_path):
    store, manifests = stored
    return Dataset(manifests["pack"], store, database, tmp_path / "copies")


__all__ = ["stored"]  # a fixture
BASE, PORT, TOKEN = "http://127.0.0.1:8123", 8123, "the-token"


class ColourEncoder:
    """Encodes an image as its mean colour, and a text as the colour that it names."""

    colours: ClassVar = {"red": [1, 0, 0], "green": [0, 1, 0], "blue": [0, 0, 1]}

    def __init__(self, *_):
        self.batches = 0

    def encode_text(self, text):
        return np.array(self.colours.get(text, [0.6, 0.6, 0.5]), np.float32)

    def encode_image(self, data):
        return self.colour(data)

    def encode_shard(self, shard, spans):
        self.batches += 1
        data = shard.read_bytes()
        return np.stack([self.colour(data[start : start + size]) for start, size in spans])

    @staticmethod
    def colour(data):
        from dataops.images.decode import decode_pixels

        mean = decode_pixels(data).reshape(-1, 3).mean(axis=0).astype(np.float32)
        return mean / np.linalg.norm(mean)

    def warm_up(self): ...

    def close(self): ...


@pytest.fixture(scope="package")
def site(stored, tmp_path_factory):
    store, manifests = stored
    home = remember_run(tmp_path_factory.mktemp("home"))
    files = ModelFiles(name="models:/tiny/1", path=home, digest="d" * 64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meaning, "Encoder", ColourEncoder)
        patch.setattr("plugins.browse.site.find_default_model", lambda *_: files)
        found = Site((manifests["pack"], store), None, home)
        yield found
        found.close()
    assert not list((home / "browse" / "sessions").iterdir())


@pytest.fixture(scope="package")
def ask(site):
    app = build_app(site, PORT, TOKEN)

    def ask(path, method="GET", **options):
        async def send():
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE) as client:
                found = re.search("[^;]*", (await client.get("/", params={"token": TOKEN})).headers["set-cookie"])
                headers = {"cookie": found[0], "origin": BASE} | options.pop("headers", {})
                return await client.request(method, path, headers=headers, **options)

        return asyncio.run(send())

    return ask
