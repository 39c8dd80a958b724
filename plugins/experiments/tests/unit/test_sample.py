"""`[curate.sample]` keeps about its share of the rows: the same ones, however they are distributed over shards."""

import pytest

from dataops.snapshot import read_parts
from dataops.store import FolderStore
from tasks.curate.config import CurateConfig
from tasks.curate.stage import CURATE
from tasks.engine.stage import make, plan
from tests.inline_executor import inline_context
from tests.unit.tasks.raw_images import downloaded, some_pairs


@pytest.mark.parametrize("size", [100, 7])
def test_the_same_rows_are_drawn_from_any_shards(tmp_path, size):
    found = []
    for share in (0.25, 0.75):
        store = FolderStore(tmp_path / str(share))
        config = CurateConfig.model_validate({"same_caption": True, "sample": {"share": share}})
        planned = plan(CURATE, config, 0, [downloaded(store, some_pairs(), size)])
        manifest = make(planned, inline_context(store, tmp_path))
        dropped = manifest.counts.dropped
        assert dropped.pop("sampled") + manifest.counts.kept == 16
        assert dropped == {"exact_duplicate": 1, "near_duplicate": 1, "too_small": 1, "truncated": 1}
        found.append({*read_parts(store, manifest)["uid"].to_pylist()})
        assert found[-1] == {uid for uid in found[-1] if int(uid[16:], 16) < share * 2**64}
    assert found[0] < found[1]
