import os
from email.message import Message

import pytest

from dataops.errors import ConfigError
from dataops.store import FolderStore
from plugins.archives.originals import MARKER, Originals


def headers(**values):
    message = Message()
    for name, value in values.items():
        message[name.replace("_", "-")] = value
    return message


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"ETag": "unquoted"},
        {"ETag": '"a\r\nX-Injected: b"'},
        {"ETag": '"' + "x" * 5_000 + '"'},
        {"Last_Modified": "a\nb"},
        {"ETag": '"1"', "Cache_Control": "private, No-Store"},
    ],
)
def test_originals_store_only_cacheable_bodies_with_validators(tmp_path, headers):
    message = Message()
    for name, value in headers.items():
        message._headers.append((name.replace("_", "-"), value))  # as a wire might
    Originals(FolderStore(tmp_path)).put("http://a.test/", b"body", message)
    assert Originals(FolderStore(tmp_path)).get("http://a.test/") is None
    assert not list(tmp_path.iterdir())


def test_originals_shrink_deletes_the_oldest_files(tmp_path):
    originals = Originals(FolderStore(tmp_path))
    for number in range(6):
        originals.put(f"http://a.test/{number}", bytes(1_000), headers(ETag='"1"'))
    for path in tmp_path.glob("??/*"):
        os.utime(path, (1_000, 1_000))
    for number in (2, 4):
        originals.confirm(f"http://a.test/{number}")
    assert originals.shrink(2_600) == 4
    assert [number for number in range(6) if originals.get(f"http://a.test/{number}")] == [2, 4]
    assert originals.shrink(10**9) == 0


OTHER_FILES = {
    "git object": f"ab/{'c' * 38}",
    "sha256 git object": f"ab/{'c' * 62}",
    "photo": "a1/photo.jpg",
    "file at the top": "notes.txt",
    "deeper folder": "ab/cd/file",
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_claim_refuses_a_folder_with_files_of_others(tmp_path, kind):
    path = tmp_path / OTHER_FILES[kind]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"the user's own")
    with pytest.raises(ConfigError, match=r"download\.originals.*name an empty or a new folder"):
        Originals(FolderStore(tmp_path)).claim()
    assert path.read_bytes() == b"the user's own"
    assert not (tmp_path / MARKER).exists()


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_shrink_deletes_only_files_with_the_names_of_originals(tmp_path, kind):
    originals = Originals(FolderStore(tmp_path / "originals"))
    originals.claim()
    originals.put("http://a.test/", bytes(1_000), headers(ETag='"1"'))
    other = tmp_path / "others" / OTHER_FILES[kind]
    other.parent.mkdir(parents=True)
    other.write_bytes(bytes(1_000))
    (tmp_path / "originals" / "ff").symlink_to(other.parent)  # a link out of the folder is not followed
    inside = tmp_path / "originals" / "fe" / "photo.jpg"
    inside.parent.mkdir()
    inside.write_bytes(b"x")
    assert originals.shrink(0) == 1
    assert other.exists()
    assert inside.exists()
    assert (tmp_path / "originals" / MARKER).exists()
