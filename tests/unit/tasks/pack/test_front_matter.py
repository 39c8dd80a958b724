"""The front matter of DATASET.md is a dataset card of the Hub, and `datasets` reads the dataset by it alone."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard

from tests.hostile_text import HOSTILE
from tests.unit.tasks.dataset_chain import packed_in, pair


def test_front_matter_has_no_text_from_the_web(tmp_path: Path) -> None:
    bad = {"caption": HOSTILE, "license": f"http://{HOSTILE}\n---\n", "language": HOSTILE, "source": HOSTILE}
    store, manifests = packed_in(tmp_path, [pair(n, **bad) for n in range(3)])
    text = store.read(manifests["pack"].path("DATASET.md")).decode()
    front = text.split("---\n", 2)[1]
    assert front.isascii()
    assert "<" not in front.replace("n<1K", "")
    assert DatasetCard(text).data.language is None


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_datasets_reads_samples_by_the_card(tmp_path: Path) -> None:
    import datasets

    # five samples, from which `datasets` would infer types, have no licence
    pairs = [pair(n, caption=f"picture {n}", query_ids=[n] if n > 9 else None) for n in range(12)]
    _, manifests = packed_in(tmp_path / "store", pairs)
    folder = tmp_path / "published"
    shutil.copytree(tmp_path / "store/pack" / manifests["pack"].key, folder)
    (folder / "README.md").write_bytes((folder / "DATASET.md").read_bytes())
    options = {"split": "train", "cache_dir": str(tmp_path / "cache"), "streaming": True}
    found = list(datasets.load_dataset(str(folder), **options))
    by_key = {row["key"]: row for row in pairs}
    assert {sample["__key__"]: sample["txt"] for sample in found} == {
        key: row["caption"] for key, row in by_key.items()
    }
    assert all(sample["jpg"].size == (48, 48) for sample in found)
    assert all(sample["json"]["query_ids"] == by_key[sample["__key__"]].get("query_ids") for sample in found)
