"""Files of packages and folders: found without running code, with licence and digest."""

import io
import zipfile

import numpy as np
import pytest

from dataops.digest import file_sha256
from dataops.errors import ConfigError
from plugins.towers.config import ImageInit, TextInit
from plugins.towers.files import find_files, read_matrix_shape
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
    write_words(tmp_path / "words")
    (tmp_path / "words" / "more.npy").write_bytes(b"")
    table = table_of(tmp_path / "words", kind="words")
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
def test_a_wrong_table_is_an_error_that_names_the_key(table, message):
    with pytest.raises(ValueError, match=message):
        ImageInit.model_validate({"architecture": "resnet18", **table})


def npy(array, shape=None):
    """Return the bytes of a .npy file, whose header may state another shape."""
    buffer = io.BytesIO()
    if shape is None:
        np.save(buffer, array)
    else:
        header = {"descr": array.dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(buffer, header)
        buffer.write(array.tobytes())
    return buffer.getvalue()


def archive(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in files.items():
            made.writestr(f"{name}.npy", data)
    return buffer.getvalue()


VECTORS = npy(np.random.default_rng(0).random((20, 8), np.float32))
WHOLE = archive(a=VECTORS)
HOSTILE = {
    "a bomb": archive(a=npy(np.zeros((100_000, 300), np.float32))),
    "a bomb beside a matrix": archive(a=VECTORS, b=npy(np.zeros(30_000_000, np.float32))),
    "a header of another shape": archive(a=npy(np.zeros((11, 22), np.float32), (9_999_999, 900))),
    "a negative shape": archive(a=npy(np.zeros((11, 22), np.float32), (-11, -22))),
    "objects": archive(a=npy(np.array([[None]]))),
    "no header": archive(a=b"nonsense"),
    "an empty array file": archive(a=b""),
    "many arrays": archive(**{f"a{number}": VECTORS for number in range(100)}),
    "a file that ends early": WHOLE[:-40],
    "no zip": b"PK",
    "no bytes": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_vectors_that_cannot_be_read_are_one_error_at_no_cost(tmp_path, name):
    write_words(tmp_path / "words")
    for file in ("vectors.npz", "vectors.npy"):
        path = tmp_path / "words" / file
        path.write_bytes(HOSTILE[name])
        table = TextInit.model_validate(table_of(path.parent, kind="words", file=file))
        message = rf"train\.text_init: .*{file} holds no matrix that can be read safely"
        for read in (lambda: read_matrix_shape(path), lambda: read_vectors(find_files(table))):  # noqa: B023
            with bounded(5, 100_000_000), pytest.raises(ConfigError, match=message):
                read()


def test_a_wrong_checksum_is_an_error_that_names_the_file(tmp_path):
    write_words(tmp_path / "words")
    path = tmp_path / "words" / "vectors.npz"
    place = WHOLE.index(b".npy") + 200
    path.write_bytes(WHOLE[:place] + bytes([WHOLE[place] ^ 1]) + WHOLE[place + 1 :])
    table = table_of(path.parent, kind="words", file=path.name)
    with pytest.raises(ConfigError, match=r"vectors\.npz holds no matrix that can be read safely"):
        read_vectors(find_files(TextInit.model_validate(table)))
    path.write_bytes(WHOLE)
    assert read_matrix_shape(path) == (20, 8)
    assert read_vectors(find_files(TextInit.model_validate(table))).shape == (20, 8)
