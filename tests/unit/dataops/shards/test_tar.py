import io
import tarfile

import pytest

from dataops.errors import CorruptPart
from dataops.shards.foreign_tar import open_foreign_tar
from dataops.shards.tar import ShardWriter, find_spans, format_index, list_members, read_index, read_samples


def shard(samples):
    out = io.BytesIO()
    writer = ShardWriter(out)
    for key, members in samples:
        writer.write(key, members)
    writer.close()
    return out.getvalue()


SAMPLES = [(f"{n:09d}", {"jpg": bytes([n]) * (n * 700), "txt": "Käse".encode(), "json": b"{}"}) for n in range(5)]


def make_tar(*members, form=tarfile.PAX_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for info in members:
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    return out.getvalue()


def member(name, kind=tarfile.REGTYPE, size=0):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, "" if kind == tarfile.REGTYPE else "/etc/passwd"
    return info


NAMES = ["../1.jpg", "/1.jpg", "a/1.jpg", "a\\1.jpg", ".1.jpg", "1", "1\n.jpg", "n" * 4000 + "/../x.jpg"]
FORMS = [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]
KINDS = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        *[(make_tar(member(name), form=form), "bad.tar: member .* is not a plain") for name in NAMES for form in FORMS],
        *[(make_tar(member("1.jpg", kind)), "is not a plain") for kind in KINDS],
        (make_tar(member("1.jpg"), member("2.jpg"), member("1.txt")), "sample '1' is repeated"),
        (make_tar(member("1.jpg"), member("1.jpg")), r"member '1.jpg' is repeated"),
        (make_tar(member("1.jpg", size=5000))[:3000], "bad.tar: "),
        (b"this is no tar file" * 100, "not a whole tar"),
        (b"", "not a whole tar"),
        (bytes(20_480), "its end is at byte 0, but more follows"),
        (shard(SAMPLES) + shard([("z", {"jpg": b"1"})]), "more follows: a header was zeroed, or tars were joined"),
    ],
)
def test_readers_refuse_hostile_shards(data, message):
    with pytest.raises(CorruptPart, match=message):
        list(read_samples(io.BytesIO(data), "bad.tar"))
    with pytest.raises(CorruptPart, match=message):
        list_members(io.BytesIO(data), "bad.tar")


@pytest.mark.parametrize("number", range(3 * len(SAMPLES)))
def test_readers_see_a_header_of_zeros(number):
    data = bytearray(shard(SAMPLES))
    at = list_members(io.BytesIO(data), "x.tar")[number].offset
    data[at - 512 : at] = bytes(512)
    with pytest.raises(
        CorruptPart, match=f"x.tar: not a whole tar file .its end is at byte {at - 512:,}, but more follows"
    ):
        list(read_samples(io.BytesIO(data), "x.tar"))
    with pytest.raises(CorruptPart, match="more follows"):
        list_members(io.BytesIO(data), "x.tar")
    for mode in ("r|", "r:"):
        with pytest.raises(tarfile.ReadError, match="more follows"), open_foreign_tar(io.BytesIO(data), mode) as tar:
            list(tar)


def test_bytes_equal_those_of_tarfile():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for key, members in SAMPLES:
            for extension, data in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size, info.mode, info.uname, info.gname = len(data), 0o444, "pairmill", "pairmill"
                tar.addfile(info, io.BytesIO(data))
    assert shard(SAMPLES) == out.getvalue()


@pytest.mark.parametrize("read", [list_members, lambda file, name: list(read_samples(file, name))])
def test_a_cut_and_a_flipped_bit_of_a_header_are_seen(read):
    data = shard(SAMPLES[1:4])
    for header in (0, 512 + 1024):  # of the first and the second member
        for byte in range(512):
            damaged = bytearray(data)
            damaged[header + byte] ^= 4
            with pytest.raises(CorruptPart, match=r"x\.tar: "):
                read(io.BytesIO(damaged), "x.tar")
    used = len(data.rstrip(b"\0")) // 512 * 512 + 512
    for end in range(0, used + 512, 256):
        with pytest.raises(CorruptPart, match=r"x\.tar: "):
            read(io.BytesIO(data[:end]), "x.tar")


def test_index_has_the_offsets_of_each_sample():
    out = io.BytesIO()
    writer = ShardWriter(out)
    text = format_index([writer.write(key, members) for key, members in SAMPLES])
    writer.close()
    assert text.splitlines()[:2] == [
        "v1.2 5", "jpg 512 0 000000000.jpg txt 1024 5 000000000.txt json 2048 2 000000000.json"
    ]  # fmt: skip
    data = out.getvalue()
    read = [
        {extension: data[m.offset : m.offset + m.size] for extension, m in members.items()}
        for members in read_index(text, "x.idx")
    ]
    assert read == [members for _, members in SAMPLES]


def test_write_refuses_names_that_do_not_fit_a_header():
    shard([("k" * 96, {"jpg": b"x"})])
    for key in ("k" * 97, "a\nb", "a.b", "", "é", "a/b"):
        with pytest.raises(ValueError, match="at most 100 characters"):
            shard([(key, {"jpg": b"x"})])
    for extension in ("", "j pg", "jpg\n", ".jpg"):
        with pytest.raises(ValueError, match="at most 100 characters"):
            shard([("a", {extension: b"x"})])


def test_find_spans_reads_no_further_than_the_last_named_member():
    data, names = shard(SAMPLES), ["000000002.jpg", "000000001.txt", "none.jpg"]
    where = {m.name: (m.offset, m.size) for m in list_members(io.BytesIO(data), "x.tar") if m.name in names}
    assert len(where) == 2
    assert find_spans(names, io.BytesIO(data), "x.tar") == where
    assert find_spans(names[:2], io.BytesIO(data[:7000]), "x.tar") == where
    with pytest.raises(CorruptPart, match="ends early"):
        find_spans(names, io.BytesIO(data[:7000]), "x.tar")
    damaged = bytearray(data)
    damaged[where["000000001.txt"][0] - 512 + 300] ^= 4
    assert find_spans(names[:1], io.BytesIO(damaged), "x.tar") == {names[0]: where[names[0]]}, (
        "headers of other members are not checked"
    )
    with pytest.raises(CorruptPart, match=r"bad checksum of the header of '000000001\.txt'"):
        find_spans(names, io.BytesIO(damaged), "x.tar")
