import io
import tarfile

import pytest

from dataops.errors import CorruptPart
from dataops.shards import ShardWriter, read_samples


def shard(samples: list[tuple[str, dict[str, bytes]]]) -> bytes:
    out = io.BytesIO()
    writer = ShardWriter(out)
    for key, members in samples:
        writer.write(key, members)
    writer.close()
    return out.getvalue()


SAMPLES = [(f"{n:09d}", {"jpg": bytes([n]) * (n * 700), "txt": "Käse".encode(), "json": b"{}"}) for n in range(5)]


def test_what_is_written_is_read() -> None:
    assert list(read_samples(io.BytesIO(shard(SAMPLES)), "x.tar")) == SAMPLES


def test_same_samples_same_bytes_and_no_clock_or_user() -> None:
    data = shard(SAMPLES)
    assert data == shard(SAMPLES)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in tar} == {(0, 0, 0, "pairmill", 0o444)}


def test_empty_shard() -> None:
    assert list(read_samples(io.BytesIO(shard([])), "x.tar")) == []


def tar_of(*members: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for info in members:
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    return out.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, "/etc/passwd" if kind == tarfile.SYMTYPE else ""
    return info


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (tar_of(member("../0001.jpg")), r"bad.tar: member '../0001.jpg' is not a plain"),
        (tar_of(member("/0001.jpg")), "is not a plain"),
        (tar_of(member("a/0001.jpg")), "is not a plain"),
        (tar_of(member("0001")), "is not a plain"),
        (tar_of(member("0001.jpg\n")), "is not a plain"),
        (tar_of(member("0001.jpg", tarfile.SYMTYPE)), "is not a plain"),
        (tar_of(member("0001.jpg", tarfile.DIRTYPE)), "is not a plain"),
        (tar_of(member("0001.jpg", tarfile.FIFOTYPE)), "is not a plain"),
        (tar_of(member("1.jpg"), member("2.jpg"), member("1.txt")), "sample '1' comes twice"),
        (tar_of(member("1.jpg"), member("1.jpg")), r"member '1.jpg' comes twice"),
        (tar_of(member("1.jpg", size=5000))[:3000], "bad.tar: "),
        (b"this is no tar file" * 100, "not a whole tar"),
        (b"", "not a whole tar"),
    ],
)
def test_hostile_shards_are_refused_by_name(data: bytes, what: str) -> None:
    with pytest.raises(CorruptPart, match=what):
        list(read_samples(io.BytesIO(data), "bad.tar"))


def test_names_that_could_not_be_read_back_are_not_written() -> None:
    with pytest.raises(ValueError, match="not a plain"):
        shard([("../1", {"jpg": b""})])
