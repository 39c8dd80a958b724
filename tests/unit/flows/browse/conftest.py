"""A site over a small dataset, and a client that asks its application without a network."""

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import httpx
import numpy as np
import pytest

from flows.browse.server import build_app
from flows.browse.site import Site
from tasks.browse import meaning
from tasks.browse.meaning import NamedModel
from tasks.models.find import ModelFiles
from tests.unit.tasks.browse.conftest import stored

__all__ = ["stored"]
BASE, PORT, TOKEN = "http://127.0.0.1:8123", 8123, "the-token"
Ask = Callable[..., httpx.Response]


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
    home = tmp_path_factory.mktemp("home")
    files = ModelFiles(name="models:/tiny/1", path=home, digest="d" * 64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meaning, "Encoder", ColourEncoder)
        patch.setattr("flows.browse.site.find_default_model", lambda *_: NamedModel("models:/tiny/1", files))
        found = Site((manifests["pack"], store), None, None, home)
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
