"""Files of packages and folders: found without running code, with licence and digest."""

from pathlib import Path

import pytest

from dataops.digest import file_sha256
from dataops.errors import ConfigError
from plugins.towers.config import ImageInit, TextInit
from plugins.towers.files import find_files
from plugins.towers.tests.made_towers import write_bert, write_words
from training.config import TrainConfig


def install(site: Path, name: str, metadata: str) -> Path:
    """Install a package that ships a folder of weights and whose code must not run; return the folder."""
    folder = site / name / "model"
    folder.mkdir(parents=True)
    (site / name / "__init__.py").write_text("raise RuntimeError('code of the package runs')")
    info = site / f"{name}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n{metadata}\n")
    return folder


def record(site: Path, name: str) -> None:
    files = [path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()]
    (site / f"{name}-1.2.dist-info" / "RECORD").write_text("".join(f"{file},,\n" for file in files))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
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
def test_a_package_is_found_with_its_version_and_licence(site: Path, metadata: str, stated: str, expected: str) -> None:
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


def test_a_package_without_a_stated_licence_needs_one_in_the_config(site: Path) -> None:
    write_words(install(site, "silent", "License: UNKNOWN"))
    record(site, "silent")
    with pytest.raises(ConfigError, match=r"train\.text_init\.license: the metadata of silent states none; set"):
        find_files(TextInit(kind="words", package="silent"))


def test_a_package_that_is_not_installed_is_a_problem_of_the_config(tmp_path: Path) -> None:
    config = TrainConfig.model_validate({"text_init": {"kind": "words", "package": "no-such-package"}})
    assert config.problems() == ["text_init.package: no-such-package is not installed: pip install no-such-package"]


def test_every_file_changes_the_digest(tmp_path: Path) -> None:
    write_bert(tmp_path / "bert")
    table = TextInit(kind="bert", path=str(tmp_path / "bert"), license="MIT")
    digests = {find_files(table).digest()}
    for path in find_files(table).list_files():
        path.write_bytes(path.read_bytes() + b" ")
        digests.add(find_files(table).digest())
    assert len(digests) == 5


def test_of_several_files_one_must_be_named(tmp_path: Path) -> None:
    write_words(tmp_path / "words")
    (tmp_path / "words" / "more.npy").write_bytes(b"")
    table = {"kind": "words", "path": str(tmp_path / "words"), "license": "MIT"}
    with pytest.raises(
        ConfigError, match=r"train\.text_init\.file: there are 2 files .*more\.npy, vectors\.npy; name one"
    ):
        find_files(TextInit.model_validate(table))
    assert find_files(TextInit.model_validate({**table, "file": "vectors.npy"})).weights.name == "vectors.npy"
    with pytest.raises(ConfigError, match=r"train\.text_init\.file: found no weights in words named other\.npy"):
        find_files(TextInit.model_validate({**table, "file": "other.npy"}))


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
def test_a_wrong_table_is_an_error_that_names_the_key(table: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageInit.model_validate({"architecture": "resnet18", **table})
