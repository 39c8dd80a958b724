"""`pairmill show --page` of the stages before and beside the dataset."""

from dataops.snapshot import Counts, Draft
from flows.commands.show import write_stage_page
from tests.manifests import build_manifest
from tests.unit.tasks.dataset_chain import packed_in, some_pairs


def test_each_stage_has_its_page(tmp_path):
    store, manifests = packed_in(tmp_path / "store", some_pairs())
    for stage in ("extract", "filter"):
        draft = Draft(store, stage, stage.zfill(16))
        counts = Counts(input=10, kept=7, dropped={"too_short": 3})
        draft.commit(build_manifest(stage, key=draft.key, counts=counts))
    expected = {
        manifests["download"].key: f"Download {manifests['download'].key}",
        manifests["curate"].key: f"Curate {manifests['curate'].key}",
        "extract".zfill(16): "7 of 10 rows kept.",
        "filter".zfill(16): "7 of 10 pairs kept",
    }
    for key, words in expected.items():
        assert words in write_stage_page(key, tmp_path / "home", store.uri, tmp_path / "page.html").read_text()
