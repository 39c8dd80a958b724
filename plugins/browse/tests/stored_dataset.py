"""A small dataset with its stages, and a client that asks a site about it."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from dataops.digest import text_sha256
from dataops.snapshot import Manifest
from dataops.store import FolderStore
from tests.unit.tasks.dataset_chain import dropped_pairs, packed_in, pair, some_pairs

HOSTILE = '<script>alert("x")</script> \' OR 1=1 --'


def hostile_pair() -> dict[str, Any]:
    return pair(30, caption=HOSTILE, page_url="javascript:alert(1)", cluster="c" * 32, clip_score=0.25)


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[FolderStore, dict[str, Manifest]]:
    clustered = [pair(31, cluster="c" * 32), pair(32, "near_duplicate", cluster="c" * 32)]
    pairs = [*some_pairs(), hostile_pair(), *clustered, *dropped_pairs()]
    pairs = [row | {"sha256": text_sha256(row["url"])} for row in pairs]
    return packed_in(tmp_path_factory.mktemp("browse") / "st[or]e", pairs)


Ask = Callable[..., httpx.Response]
