"""A named pipe, socket, device or folder in place of a file is a deliberate error in each reader, and none waits for it."""

import os
import socket
from pathlib import Path

import pytest

from dataops.archives.warc import read_pages
from dataops.errors import ContractError, PairmillError
from dataops.regular_files import NotRegularFileError, check_regular, open_regular, read_bytes, read_text
from dataops.snapshot import load_manifest
from dataops.storage.cache import Cache, Version
from dataops.storage.folder import FolderStore
from dataops.storage.partition_file import read_partitions
from dataops.text.query_list import read_queries
from flows.config import config_name, load_config
from flows.records import known_stores
from tasks.files.find import LocalFile, find_source_files
from tasks.models.find import find_model
from training.data.shard_files import ShardFiles, read_shard_rows
from training.data.shard_index import _locate_members, _read_index
from training.evaluation.samples import read_members
from training.evaluation.sets import EvalSet
from training.evaluation.suite import load_suite
from training.model.load import load_any
from training.model.pretrained import read_state_dict
from training.model_config import load_model_config

pytestmark = pytest.mark.timeout(60, method="signal")  # a reader that waits for a writer fails by it


def make_folder(path):
    path.mkdir()


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # the path of a socket has at most 107 bytes
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


def make_device(path):
    path.symlink_to("/dev/zero")  # endless


def make_link(path):
    os.mkfifo(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


KINDS = {
    "a named pipe": os.mkfifo,
    "a link to a named pipe": make_link,
    "a socket": make_socket,
    "a device": make_device,
    "a folder": make_folder,
}


def read_all(stream):
    for _ in stream:
        pass


def read_set(path):
    """Read an evaluation set with a folder for each class, whose only image is `path`."""
    (path.parent / "cats").mkdir()
    image = path.rename(path.parent / "cats" / path.name)
    read_all(EvalSet(image.parent.parent, "", "classification").samples())


def read_set_file(path):
    """Read a list of an evaluation set."""
    evaluation_set = EvalSet(path.parent, "test", "classification")
    (path.parent / "test").mkdir()
    (path.parent / "test" / "nshards.txt").write_text("1")
    evaluation_set.class_names()


def planted(path):
    """Return the store, stage and key of a snapshot whose manifest is `path`."""
    folder = path.parent / "extract" / ("0" * 16)
    folder.mkdir(parents=True)
    path.rename(folder / path.name)
    return FolderStore(path.parent), "extract", "0" * 16


def locate(path):
    """Locate the members of a shard, of which `path` is the index or the shard itself."""
    try:
        _locate_members(path.with_suffix(".tar"), _read_index(path))
    except OSError as error:  # the loader raises a ContractError instead
        raise ContractError(str(error)) from error


READERS = {
    "config": ("c.toml", load_config),
    "config name": ("c.toml", config_name),
    "source": ("a.warc.gz", lambda path: find_source_files([str(path)])),
    "source digest": ("a.warc.gz", lambda path: LocalFile("a", path).digest()),
    "source file": ("a.warc.gz", lambda path: LocalFile("a", path).open()),
    "archive": ("a.warc.gz", lambda path: read_all(read_pages(path, 1000, print))),
    "queries": ("q.parquet", read_queries),
    "model config": ("m.json", lambda path: load_model_config(str(path))),
    "model": ("m.pt", load_any),
    "model, found": ("m.pt", lambda path: find_model(str(path), path.parent)),
    "weights": ("m.pt", read_state_dict),
    "safetensors": ("m.safetensors", read_state_dict),
    "suite": ("s.toml", load_suite),
    "image of a set": ("cat.jpg", read_set),
    "list of a set": ("classnames.txt", read_set_file),
    "training shard": ("0.tar", locate),
    "index of a training shard": ("0.idx", locate),
    "training shard, opened": ("0.tar", lambda path: ShardFiles([path], {}).read(0, 0, 1)),
    "manifest": ("manifest.json", lambda path: load_manifest(*planted(path))),
    "shard of a set": ("0.tar", lambda path: read_all(read_members(path))),
    "rows of a shard": ("part-0.parquet", lambda path: read_all(read_shard_rows(path.with_name("0.tar"), ["uid"]))),
    "store": ("object", lambda path: FolderStore(path.parent).read("object")),
    "store, opened": ("object", lambda path: FolderStore(path.parent).open("object").__enter__()),
    "store, local": ("object", lambda path: FolderStore(path.parent).local("object")),
    "store, locals": ("object", lambda path: FolderStore(path.parent).locals(["object"])),
    "store, copy": ("object", lambda path: FolderStore(path.parent).copy("object", "other")),
    "store, put": ("object", lambda path: FolderStore(path.parent).put("other", path)),
    "store, download": ("object", lambda path: FolderStore(path.parent).download("object", path.with_name("copy"))),
    "store, ranges of several": ("object", lambda path: list(FolderStore(path.parent).read_each([("object", 0, 1)]))),
    "store, ranges": ("object", lambda path: list(FolderStore(path.parent).read_ranges("object", [(0, 1)]))),
    "scratch table": ("rows.table", lambda path: read_partitions(FolderStore(path.parent), ["rows.table"], 0, 1)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_readers_refuse_what_is_no_regular_file(reader, kind, tmp_path):
    name, read = READERS[reader]
    KINDS[kind](tmp_path / name)
    with pytest.raises((PairmillError, NotRegularFileError)) as caught:
        read(tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_functions_refuse_what_is_no_regular_file(kind, tmp_path):
    KINDS[kind](tmp_path / "file")
    for read in (check_regular, open_regular, read_bytes, read_text):
        with pytest.raises(NotRegularFileError, match="not a regular file; put a regular file in its place"):
            read(tmp_path / "file")


def test_readers_replaced_between_check_and_opening_do_not_wait(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "file")
    monkeypatch.setattr("dataops.regular_files.check_regular", lambda path: None)
    with pytest.raises(NotRegularFileError):
        read_bytes(tmp_path / "file")


@pytest.mark.parametrize("kind", ["a named pipe", "a link to a named pipe", "a socket"])
def test_a_listing_of_a_store_does_not_wait(kind, tmp_path):
    KINDS[kind](tmp_path / "object")
    store = FolderStore(tmp_path)
    assert set(store.names("")) <= {"object", "elsewhere"}
    with pytest.raises(PairmillError, match="object"):
        store.size("object")
    store.delete(["object"])
    assert not (tmp_path / "object").is_symlink()
    assert not (tmp_path / "object").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_does_not_wait(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path))
    cache = Cache("server")
    (cache.root / "server").mkdir(parents=True)
    version = Version(0, 0, "etag")
    KINDS[kind](cache.root / "server" / "object")
    if kind == "a folder":
        with pytest.raises(PairmillError, match=r"delete .*cache"):
            cache.get("object", version, Path.touch, None)
    else:
        if kind != "a device":
            os.utime(cache.root / "server" / "object", ns=(version.mtime_ns, version.mtime_ns))
        assert cache.get("object", version, Path.touch, None).is_file()
    KINDS[kind](cache.root / ".new")
    (cache.root / ".lock").unlink()
    (cache.root / ".new").rename(cache.root / ".lock")
    with pytest.raises(PairmillError, match="cannot lock"):
        cache.trim()


@pytest.mark.parametrize("kind", KINDS)
def test_pointers_and_configs_of_checks_are_not_waited_for(kind, tmp_path):
    (tmp_path / "runs").mkdir()
    KINDS[kind](tmp_path / "runs" / "run-1")
    assert [store.uri for store in known_stores(tmp_path)] == [str(tmp_path / "store")]
