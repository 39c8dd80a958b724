"""Bombs whose pixels are few or legal, but whose structure would cost a decoder seconds, minutes or gigabytes."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from dataops.images import structure
from dataops.images.decode import ImageRefused, decode, decode_pixels, read_header
from dataops.images.kinds import KINDS
from dataops.images.structure import TooComplex, check_scans, cut_metadata
from tests.image_files import count_lines, noise, png_chunk
from training.data.decode import decode_image
from training.model.preprocess import decode_rgb

PROFILE = ImageCms.createProfile("sRGB")

MAX_STEPS = 500_000
"""Lines of Python that a check may execute, whatever the bytes are; a line for each byte would be 8 times as many."""
SIZE = 4_000_000


def with_segments(segments, size=(90, 60)):
    jpeg = noise("JPEG", size=size)
    return jpeg[:20] + segments + jpeg[20:]  # behind JFIF's segment


def with_scans(number, size):
    """Return a progressive JPEG, to which scans are added that have no bit, each of one component."""
    jpeg = bytearray(noise("JPEG", progressive=True))
    frame = jpeg.index(b"\xff\xc2")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", *size[::-1])
    scan = b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0x00, 1, 5, 0x00)
    return bytes(jpeg[:-2]) + scan * number + b"\xff\xd9"


def exif_bomb():
    """Return a JPEG with an EXIF block of 64 KB, of whose 5,400 values each is nearly the whole block."""
    entries = b"".join(struct.pack("<HHII", tag, 7, 65_000, 8) for tag in range(1, 5_401))
    block = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 5_400) + entries + bytes(4)
    return with_segments(b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block)


def with_chunks(chunks, *, before=True):
    png = noise("PNG")
    at = 33 if before else len(png) - 12
    return png[:at] + chunks + png[at:]


def tiny_data_chunks():
    """Return a PNG whose data is cut into chunks of one byte."""
    png = noise("PNG", size=(700, 500))
    data = b"".join(png[at + 4 : at + 4 + size] for at, size in idat_spans(png))
    return png[:33] + b"".join(png_chunk(b"IDAT", bytes([byte])) for byte in data) + png_chunk(b"IEND", b"")


def idat_spans(png):
    at, found = 8, []
    while at < len(png):
        size, name = struct.unpack_from(">I4s", png, at)
        if name == b"IDAT":
            found.append((at + 4, size))
        at += 12 + size
    return found


def with_extensions(blocks):
    gif = noise("GIF", "P")
    start = 13 + (3 << (gif[10] & 7) + 1)
    return gif[:start] + blocks + gif[start:]


def rle_bmp(body, size):
    header = struct.pack("<IiiHHIIiiII", 40, *size, 1, 8, 1, len(body), 0, 0, 256, 0)
    start = 14 + len(header) + 1024
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + header + bytes(1024) + body


def avif_with_items(number):
    avif = noise("AVIF")
    at = avif.index(b"iinf")
    size, _, count = struct.unpack_from(">I", avif, at - 4)[0], 0, number
    items = b"".join(
        struct.pack(">I4sIHHIB", 21, b"infe", 2 << 24, item % 65_536, 0, 0x6D696D65, 0) for item in range(count)
    )
    box = struct.pack(">I4sII", 16 + len(items), b"iinf", 1 << 24, count) + items
    meta = avif.index(b"meta") - 4
    grown = struct.unpack_from(">I", avif, meta)[0] + len(box) - size
    return avif[:meta] + struct.pack(">I", grown) + avif[meta + 4 : at - 4] + box + avif[at - 4 + size :]


REFUSED = {
    "jpeg of 200,000 scans": lambda: with_scans(200_000, (640, 480)),
    "jpeg of 40 scans of 64 million pixels": lambda: with_scans(40, (8000, 8000)),
    "jpeg with comments": lambda: with_segments(b"\xff\xfe\0\2" * (SIZE // 4)),
    "jpeg with APPn": lambda: with_segments(b"\xff\xe5\0\2" * (SIZE // 4)),
    "jpeg with fill bytes": lambda: with_segments(b"\xff" * SIZE),
    "jpeg with stuffed zeros": lambda: with_segments(b"\xff\0" * (SIZE // 2)),
    "jpeg with junk": lambda: with_segments(bytes(SIZE)),
    "jpeg with restarts": lambda: with_segments(b"\xff\xd0" * (SIZE // 2)),
    "jpeg with quantization tables": lambda: with_segments(
        (b"\xff\xdb" + struct.pack(">H", 2 + 65 * 1000) + bytes(65 * 1000)) * (SIZE // 65_000)
    ),
    "png with tEXt": lambda: with_chunks(png_chunk(b"tEXt", b"a\0b") * (SIZE // 15)),
    "png with zTXt": lambda: with_chunks(png_chunk(b"zTXt", b"a\0\0" + zlib.compress(b"b")) * (SIZE // 24)),
    "png with iTXt": lambda: with_chunks(png_chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(b"b")) * (SIZE // 27)),
    "png with chunks after its data": lambda: with_chunks(png_chunk(b"tEXt", b"a\0b") * (SIZE // 15), before=False),
    "png with chunks of frames": lambda: with_chunks(png_chunk(b"fdAT", bytes(4)) * (SIZE // 16), before=False),
    "png with data in bytes": tiny_data_chunks,
    "gif with comments": lambda: with_extensions(b"!\xfe\1a\0" * (SIZE // 5)),
    "gif with a comment of bytes": lambda: with_extensions(b"!\xfe" + b"\1a" * (SIZE // 2) + b"\0"),
    "gif with junk": lambda: with_extensions(bytes(SIZE)),
    "bmp with runs of one pixel": lambda: rle_bmp(b"\1\2" * 8_000_000, (4000, 2000)),
    "bmp with ends of lines": lambda: rle_bmp(b"\0\0" * 8000, (8000, 8000)),
    "avif with items": lambda: avif_with_items(60_000),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bomb_is_refused_before_a_decoder_opens_it(name, monkeypatch):
    data, kind = REFUSED[name](), name.split()[0]
    assert count_lines(structure, lambda: cut_metadata(data, kind)) < MAX_STEPS

    def fail(*_, **__):
        raise AssertionError("a decoder opened it")

    monkeypatch.setattr(Image, "open", fail)
    for function in (read_header, decode):
        with pytest.raises(ImageRefused, match="too_complex: ") as refused:
            function(data)
        assert refused.value.reason == "too_complex"


def test_scans_are_counted_for_each_decoder_of_jpegs():
    data = with_scans(2_000, (90, 60))
    with pytest.raises(ImageRefused, match="too_complex: more than 500 scans of 90x60 pixels"):
        decode_pixels(data)
    for decode_for_training in (lambda: decode_image(data, 32), lambda: decode_rgb(data)):
        with pytest.raises(ValueError, match="more than 500 scans"):
            decode_for_training()


def compressed_text(name, start):
    return png_chunk(name, start + zlib.compress(bytes(1 << 20), 9)) * 60


DECODED = {
    "jpeg with EXIF of 350 MB": exif_bomb,
    "jpeg with EXIF in many segments": lambda: with_segments(
        (b"\xff\xe1" + struct.pack(">H", 65_000) + b"Exif\0\0" + bytes(64_992)) * 200
    ),
    "png with compressed text": lambda: with_chunks(compressed_text(b"zTXt", b"a\0\0")),
    "png with compressed international text": lambda: with_chunks(compressed_text(b"iTXt", b"a\0\1\0\0\0")),
    "png with profiles": lambda: with_chunks(compressed_text(b"iCCP", b"a\0\0")),
    "gif with a large comment": lambda: with_extensions(b"!\xfe" + (b"\xff" + bytes(255)) * 60_000 + b"\0"),
}


@pytest.mark.parametrize("name", DECODED)
def test_metadata_is_not_parsed(name):
    kind = name.split()[0]
    data, plain = DECODED[name](), noise(kind.upper(), "P" if kind == "gif" else "RGB")
    assert count_lines(structure, lambda: cut_metadata(data, kind)) < MAX_STEPS
    assert len(cut_metadata(data, kind)) <= len(plain), "Pillow gets no more than the pixels"
    assert read_header(data) == read_header(plain)
    for function in (decode, decode_pixels, decode_rgb):
        assert np.array_equal(np.asarray(function(data)), np.asarray(function(plain)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "CMYK", "1"])
def test_cutting_metadata_changes_no_pixel(kind, mode):
    options = {
        "exif": Image.Exif().tobytes(),
        "icc_profile": ImageCms.ImageCmsProfile(PROFILE).tobytes(),
    }
    several = [
        {},
        {"progressive": True},
        {"interlace": 1},
        {"transparency": 3} if mode in "LP" else {},
    ]
    for more in several:
        try:
            data = noise(kind, mode, **(more if kind in ("gif", "bmp") else options | more))
        except (OSError, ValueError):  # the format has no such mode
            return
        with Image.open(io.BytesIO(data)) as one, Image.open(io.BytesIO(cut_metadata(data, kind))) as other:
            assert (one.mode, one.size) == (other.mode, other.size)
            assert one.tobytes() == other.tobytes()
            assert one.convert("RGBA").tobytes() == other.convert("RGBA").tobytes()


def test_scan_markers_in_metadata_and_behind_the_image_do_not_count():
    jpeg = noise("JPEG", progressive=True)
    many = b"\xff\xda\0\4ab" * 1_000
    check_scans(with_segments(b"\xff\xfe" + struct.pack(">H", len(many) + 2) + many), 8_000, 8_000)
    check_scans(jpeg + many, 8_000, 8_000)
    check_scans(jpeg, 65_500, 65_500)
    with pytest.raises(TooComplex, match="more than 33 scans of 8000x8000"):
        check_scans(with_scans(30, (8_000, 8_000)), 8_000, 8_000)
    check_scans(with_scans(400, (640, 480)), 480, 640)
