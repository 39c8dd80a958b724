"""Other tools read packed shards without conversion: webdataset, open_clip, img2dataset, datasets."""

import re
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unit.tasks.dataset_chain import packed_in, pair

pytestmark = pytest.mark.filterwarnings(  # theirs: webdataset leaves files to the collector
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::DeprecationWarning"
)
PAIRS = [pair(n, caption=f"picture {n} é 赤い", sampling_probability=0.5) for n in range(17)]
BY_KEY = {row["key"]: row for row in PAIRS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder of a dataset of three shards."""
    root = tmp_path_factory.mktemp("store")
    _, manifest = packed_in(root, PAIRS, shard_size=6)
    return root / "pack" / manifest["pack"].key


def test_webdataset_reads_images_captions_and_rows(folder):
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


def open_clip_batches(folder, shards, *, is_train):
    from open_clip_train.data import get_wds_dataset

    where = str(folder / shards)
    options = SimpleNamespace(
        train_data=where, val_data=where, train_num_samples=12, val_num_samples=17, dataset_resampled=False,
        train_data_upsampling_factors=None, seed=0, batch_size=4, workers=0, world_size=1,
    )  # fmt: skip
    found = get_wds_dataset(options, lambda image: image, is_train, tokenizer=lambda text: [text])
    return list(found.dataloader)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_open_clip_loads_shards_for_training_and_evaluation(folder, monkeypatch):
    import webdataset
    from open_clip_train import data

    # open_clip 3.3 asks for webdataset 0.2.86 or older: newer ones mark the end of a shard in another way
    monkeypatch.setattr(data, "tar_file_expander", partial(data.tar_file_expander, eof_value=None))
    # Its loader batches tensors: pictures and captions are left as they are, so that they can be compared.
    monkeypatch.setattr(
        webdataset, "batched", lambda size, partial=True: webdataset.filters.batched(size, list, partial)
    )
    captions = {row["caption"] for row in PAIRS}
    loaded = []
    for batch in open_clip_batches(folder, "{00000..00002}.tar", is_train=False):
        for image, caption in batch:
            assert image.size == (48, 48)
            loaded.append(caption)
    assert sorted(loaded) == sorted(captions)
    batches = open_clip_batches(folder, "{00000..00001}.tar", is_train=True)
    assert [len(batch) for batch in batches] == [4, 4, 4]
    assert len({caption for batch in batches for _, caption in batch}) == 12


def test_img2dataset_reads_the_rows_for_another_download(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks the network when img2dataset is imported
    from img2dataset.reader import Reader

    reader = Reader(str(folder), "parquet", "url", "caption", None, None, ["uid", "license"], 100, set(), str(tmp_path))
    found = []
    for _, shard in reader:
        with pa.OSFile(shard) as file:
            found += pa.ipc.open_file(file).read_all().to_pylist()
    assert {row["url"] for row in found} == {row["url"] for row in PAIRS}
    assert {(row["uid"], row["caption"]) for row in found} == {(row["uid"], row["caption"]) for row in PAIRS}


def printed_code(folder):
    """Return the code that the dataset's page prints, by tool."""
    section = (folder / "DATASET.md").read_text("utf-8").partition("## How to load it")[2].partition("\n## ")[0]
    section = section.replace("open\\_clip", "open_clip")  # Markdown
    return dict(re.findall(r"^(\w[\w ]*):\n+```\n(.*?)\n```", section, re.MULTILINE | re.DOTALL))


def run_printed(code, folder, monkeypatch):
    """Run code in the folder of the store, and return its variables."""
    monkeypatch.chdir(folder.parents[1])
    names = {}
    exec(code, names)
    return names


# In the first five samples, columns of each type are null; in others they are not.
FULL = {
    "cluster": "0" * 32, "declared_width": 640, "clip_score": 0.25, "query_ids": [1, 2], "extra": '{"a": 1}',
    "face_bboxes": [[0.1, 0.2, 0.3, 0.4]], "captions": [{"uid": "1" * 32, "caption": "more"}],
}  # fmt: skip


def sparse_pairs(known):
    """Return pairs that have all columns where `known` holds for their position in the shards, and none elsewhere."""
    return [pair(n) | (FULL if known(n) else dict.fromkeys(FULL)) for n in range(17)]


@pytest.mark.parametrize(
    "known",
    [lambda n: False, lambda n: n >= 12, lambda n: n % 2 == 1, lambda n: True],
    ids=["never", "late", "mixed", "always"],
)
def test_datasets_loads_a_dataset_by_the_printed_code(known, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    _, manifests = packed_in(tmp_path / "store", sparse_pairs(known), shard_size=6)
    folder = tmp_path / "store" / "pack" / manifests["pack"].key
    rows = {row["uid"]: row for row in pq.ParquetDataset(sorted(folder.glob("part-*.parquet"))).read().to_pylist()}
    found = run_printed(printed_code(folder)["datasets"], folder, monkeypatch)["dataset"]
    assert len(found) == 17
    for sample in found:
        row = rows[sample["json"]["uid"]]
        assert sample["txt"] == row["caption"]
        assert sample["jpg"].size == (48, 48)
        assert sample["json"] == row
    published = Path(shutil.copytree(folder, tmp_path / "published"))
    (published / "DATASET.md").rename(published / "README.md")  # its front matter alone
    by_card = datasets.load_dataset(str(published), split="train", cache_dir=str(tmp_path / "of_card"), streaming=True)
    assert {sample["json"]["uid"]: sample["json"] for sample in by_card} == rows
