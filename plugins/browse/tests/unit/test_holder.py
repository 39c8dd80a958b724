"""A takedown overwrites the features of removed images, and finds those that are left."""

import numpy as np
import pytest

from dataops.store import FolderStore
from plugins.browse.feature_table import FeatureTable, image_ids
from plugins.browse.holder import CACHES
from tasks.engine.context import Context
from tasks.takedown.holders import Scope, Traces
from tests.inline_executor import InlineExecutor


@pytest.fixture
def scope(tmp_path):
    context = Context(FolderStore(tmp_path / "store"), InlineExecutor(), tmp_path)
    return Scope(context, tmp_path, [])


def test_features_of_removed_images_are_found_until_they_are_erased(scope):
    digests = ["5" * 64, "a" * 64]
    table = FeatureTable(scope.home / "browse" / "features" / "m")
    table.add(image_ids(digests), np.ones((2, 4), np.float32))
    traces = Traces(uids={"0" * 32}, images={digests[1]})
    (found,) = CACHES.find(traces, scope).found
    assert found.finds == {"feature": 1}
    assert CACHES.erase(traces, scope).files == 1
    assert not CACHES.find(traces, scope).found
    assert table.features().tolist() == [[1.0] * 4, [0.0] * 4]
    assert table.locate(image_ids(digests)).tolist() == [0, -1]
    assert CACHES.erase(traces, scope).files == 0
