import io
import tarfile

import pytest

from dataops.shards.foreign_tar import open_foreign_tar

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
NAMES = ["a/0.jpg", "a/1.txt", "ä" * 60 + "/" + "b" * 90 + ".jpg", "c/2.json"]


def make_tar(form):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, encoding="utf-8") as tar:
        for name in NAMES:
            info = tarfile.TarInfo(name)
            info.size = 700
            tar.addfile(info, io.BytesIO(b"x" * 700))
    return out.getvalue()


def read(data, mode):
    with open_foreign_tar(io.BytesIO(data), mode) as tar:
        return [member.name for member in tar]


@pytest.mark.parametrize("mode", ["r|", "r:"])
@pytest.mark.parametrize("form", FORMATS)
def test_whole_file_is_read_and_a_damaged_or_truncated_one_is_an_error(form, mode):
    data = make_tar(form)
    assert read(data, mode) == NAMES
    assert read(bytes(10_240), mode) == []
    with pytest.raises(tarfile.ReadError, match="its end is at byte 0, but more follows"):
        read(bytes(20_480), mode)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        last = tar.getmembers()[-1]
    for at in range(0, last.offset + 512, 512):
        if data[at + 257 : at + 262] == b"ustar":
            damaged = bytearray(data)
            damaged[at + 150] ^= 4  # in the checksum
            with pytest.raises(tarfile.TarError):
                read(damaged, mode)
    for end in range(512, last.offset_data + 1024, 512):
        with pytest.raises((tarfile.TarError, EOFError, ValueError)):
            read(data[:end], mode)
