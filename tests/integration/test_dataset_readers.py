"""Other tools read packed shards without conversion: webdataset, open_clip, img2dataset, datasets."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from tests.unit.tasks.dataset_chain import packed_in, pair

pytestmark = pytest.mark.filterwarnings(  # theirs: webdataset leaves files to the collector
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::DeprecationWarning"
)
PAIRS = [pair(n, caption=f"picture {n} é 赤い", sampling_probability=0.5) for n in range(17)]
BY_KEY = {row["key"]: row for row in PAIRS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a dataset of three shards."""
    root = tmp_path_factory.mktemp("store")
    _, manifest = packed_in(root, PAIRS, shard_size=6)
    return root / "pack" / manifest["pack"].key


def test_webdataset_reads_images_captions_and_rows(folder: Path) -> None:
    import webdataset

    dataset = webdataset.WebDataset(str(folder / "{00000..00002}.tar"), shardshuffle=False, empty_check=False)
    raw = list(dataset)
    assert {sample["__key__"]: sample["jpg"] for sample in raw} == {key: row["data"] for key, row in BY_KEY.items()}
    for sample in dataset.decode("pil"):
        row = BY_KEY[sample["__key__"]]
        assert sample["jpg"].size == (48, 48)
        assert sample["txt"] == row["caption"]
        assert sample["json"]["uid"] == row["uid"]
        assert sample["json"]["sampling_probability"] == 0.5


def open_clip_batches(folder: Path, shards: str, *, is_train: bool) -> list[Any]:
    from open_clip_train.data import get_wds_dataset

    where = str(folder / shards)
    options = SimpleNamespace(
        train_data=where, val_data=where, train_num_samples=12, val_num_samples=17, dataset_resampled=False,
        train_data_upsampling_factors=None, seed=0, batch_size=4, workers=0, world_size=1,
    )  # fmt: skip
    found = get_wds_dataset(options, lambda image: image, is_train, tokenizer=lambda text: [text])
    return list(found.dataloader)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_open_clip_loads_shards_for_training_and_evaluation(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import webdataset
    from open_clip_train import data

    # open_clip 3.3 asks for webdataset 0.2.86 or older: newer ones mark the end of a shard in another way
    monkeypatch.setattr(data, "tar_file_expander", partial(data.tar_file_expander, eof_value=None))
    # Its loader batches tensors: pictures and captions are left as they are, so that they can be compared.
    monkeypatch.setattr(
        webdataset, "batched", lambda size, partial=True: webdataset.filters.batched(size, list, partial)
    )
    captions = {row["caption"] for row in PAIRS}
    loaded: list[str] = []
    for batch in open_clip_batches(folder, "{00000..00002}.tar", is_train=False):
        for image, caption in batch:
            assert isinstance(image, Image.Image)
            assert image.size == (48, 48)
            loaded.append(caption)
    assert sorted(loaded) == sorted(captions)
    batches = open_clip_batches(folder, "{00000..00001}.tar", is_train=True)
    assert [len(batch) for batch in batches] == [4, 4, 4]
    assert len({caption for batch in batches for _, caption in batch}) == 12


def test_img2dataset_reads_the_rows_for_another_download(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks the network when img2dataset is imported
    from img2dataset.reader import Reader

    reader = Reader(str(folder), "parquet", "url", "caption", None, None, ["uid", "license"], 100, set(), str(tmp_path))
    found = []
    for _, shard in reader:
        with pa.OSFile(shard) as file:
            found += pa.ipc.open_file(file).read_all().to_pylist()
    assert {row["url"] for row in found} == {row["url"] for row in PAIRS}
    assert {(row["uid"], row["caption"]) for row in found} == {(row["uid"], row["caption"]) for row in PAIRS}


def test_datasets_loads_shards_as_a_dataset(folder: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    shards = [str(path) for path in sorted(folder.glob("*.tar"))]
    found = datasets.load_dataset("webdataset", data_files=shards, split="train", cache_dir=str(tmp_path))
    assert len(found) == 17
    for sample in found:
        row = BY_KEY[sample["__key__"]]
        assert sample["txt"] == row["caption"]
        assert sample["jpg"].size == (48, 48)
        assert json.loads(json.dumps(sample["json"]))["url"] == row["url"]
