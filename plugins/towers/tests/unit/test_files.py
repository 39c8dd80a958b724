"""Files of packages and folders: found without running code, with licence and digest."""

import pickle

import numpy as np
import pytest
from safetensors.numpy import save

from dataops.digest import file_sha256
from dataops.errors import ConfigError
from plugins.towers.config import ImageInit, TextInit
from plugins.towers.files import find_files
from plugins.towers.tests.made_towers import table_of, write_bert, write_words
from plugins.towers.weights import read_vectors
from tests.costs import bounded
from training.config import TrainConfig


def install(site, name, metadata):
    """Install a package that ships a folder of weights and whose code must not run; return the folder."""
    folder = site / name / "model"
    folder.mkdir(parents=True)
    (site / name / "__init__.py").write_text("raise RuntimeError('code of the package runs')")
    info = site / f"{name}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n{metadata}\n")
    return folder


def record(site, name):
    files = [path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()]
    (site / f"{name}-1.2.dist-info" / "RECORD").write_text("".join(f"{file},,\n" for file in files))


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path / "site"


@pytest.mark.parametrize(
    ("metadata", "stated", "expected"),
    [
        ("License-Expression: Apache-2.0", "", "Apache-2.0"),
        ("License: MIT\nClassifier: License :: OSI Approved :: MIT License", "", "MIT License"),
        ("License: BSD 3-Clause", "", "BSD 3-Clause"),
        ("License: UNKNOWN", "Apache-2.0", "Apache-2.0"),
        ("License-Expression: MIT", "Apache-2.0", "Apache-2.0"),
    ],
)
def test_a_package_is_found_with_its_version_and_licence(site, metadata, stated, expected):
    write_bert(install(site, "shipped", metadata) / "inner")
    record(site, "shipped")
    found = find_files(TextInit(kind="bert", package="shipped", license=stated))
    weights = site / "shipped" / "model" / "inner" / "model.safetensors"
    assert found.describe("text") == {
        "tower": "text",
        "name": "shipped",
        "version": "1.2",
        "license": expected,
        "file": "model.safetensors",
        "sha256": file_sha256(weights),
    }
    names = ["model.safetensors", "tokenizer.json", "config.json", "config.json"]
    assert [path.name for path in found.list_files()] == names


def test_a_package_without_a_stated_licence_needs_one_in_the_config(site):
    write_words(install(site, "silent", "License: UNKNOWN"))
    record(site, "silent")
    with pytest.raises(ConfigError, match=r"train\.text_init\.license: the metadata of silent states none; set"):
        find_files(TextInit(kind="words", package="silent"))


def test_a_package_that_is_not_installed_is_a_problem_of_the_config():
    config = TrainConfig.model_validate({"text_init": {"kind": "words", "package": "no-such-package"}})
    assert config.problems() == ["text_init.package: no-such-package is not installed: pip install no-such-package"]


def test_every_file_changes_the_digest(tmp_path):
    write_bert(tmp_path / "bert")
    table = TextInit(kind="bert", path=str(tmp_path / "bert"), license="MIT")
    digests = {find_files(table).digest()}
    for path in find_files(table).list_files():
        path.write_bytes(path.read_bytes() + b" ")
        digests.add(find_files(table).digest())
    assert len(digests) == 5


def test_of_several_files_one_must_be_named(tmp_path):
    write_words(tmp_path)
    (tmp_path / "more.safetensors").write_bytes(b"")

    def find(**more):
        return find_files(TextInit.model_validate(table_of(tmp_path, kind="words", **more)))

    with pytest.raises(
        ConfigError, match=r"text_init\.file: there are 2 .*more\.safetensors, vectors\.safetensors; name"
    ):
        find()
    assert find(file="vectors.safetensors").weights.name == "vectors.safetensors"
    with pytest.raises(ConfigError, match=r"train\.text_init\.file: found no weights in .* named other\.safetensors"):
        find(file="other.safetensors")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "set either package or path"),
        ({"package": "a", "path": "b"}, "set either package or path"),
        ({"path": "b"}, "license: a file states none"),
        ({"package": "a", "file": "../x"}, "name a file inside"),
        ({"package": "a", "architecture": "vgg16"}, "architecture: 'vgg16' is not known"),
    ],
)
def test_a_wrong_table_is_an_error_that_names_the_key(table, message):
    with pytest.raises(ValueError, match=message):
        ImageInit.model_validate({"architecture": "resnet18", **table})


VECTORS = save({"v": np.random.default_rng(0).random((20, 8), np.float32)})
HOSTILE = {
    "a header of another shape": VECTORS.replace(b"[20,8]", b"[99,8]"),
    "a file that ends early": VECTORS[:-40],
    "a header without an end": b"\xff" * 8 + VECTORS[8:],
    "a pickle": pickle.dumps({"v": [1.0]}),
    "no bytes": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_vectors_that_cannot_be_read_are_one_error_at_no_cost(tmp_path, name):
    path = tmp_path / "vectors.safetensors"
    path.write_bytes(HOSTILE[name])
    with bounded(5, 100_000_000), pytest.raises(ConfigError, match=r"vectors\.safetensors holds no matrix that can be"):
        read_vectors(path)


def test_vectors_are_one_matrix(tmp_path):
    path = tmp_path / "vectors.safetensors"
    path.write_bytes(VECTORS)
    assert read_vectors(path).shape == (20, 8)
    path.write_bytes(save({"a": np.zeros((2, 3)), "b": np.zeros((2, 3))}))
    with pytest.raises(ConfigError, match="holds 2 matrices"):
        read_vectors(path)
    path.write_bytes(save({"v": np.full((2, 3), np.nan)}))
    with pytest.raises(ConfigError, match="not finite"):
        read_vectors(path)
