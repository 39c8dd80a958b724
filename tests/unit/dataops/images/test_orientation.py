"""Compares with Pillow's ImageOps.exif_transpose, on whole files and on random EXIF blocks."""

import io
import struct
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from dataops.images import orientation as module
from dataops.images.decode import decode, decode_pixels, read_header
from dataops.images.orientation import MAX_ENTRIES, parse_orientation, read_orientation
from dataops.images.structure import cut_metadata
from tests.costs import allocating
from tests.image_files import as_file, count_lines, png_chunk, riff_chunk, segment
from training.data.decode import decode_image
from training.model.preprocess import decode_rgb

KINDS = ["JPEG", "PNG", "WEBP", "AVIF"]
SIZE = (60, 40)
"""Width and height as stored: no side is a multiple of 16."""


def stored():
    """Return an image whose corners differ."""
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    return Image.fromarray(np.stack([x * 4, y * 6, 255 - 2 * (x + y)], axis=-1).astype(np.uint8))


def exif(orientation):
    found = Image.Exif()
    found[module.ORIENTATION_TAG] = orientation
    return found.tobytes()


def encoded(kind, orientation=None, mode="RGB", **options):
    if orientation is not None:
        options["exif"] = exif(orientation)
    return as_file(stored().convert(mode), kind, **options)


def transposed(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_decoded_upright(kind, orientation):
    data = encoded(kind, orientation)
    expected = transposed(data)
    header = read_header(data)
    assert (header.height, header.width, header.orientation) == (*expected.shape[:2], orientation)
    assert (header.width, header.height) == (SIZE if orientation < 5 else SIZE[::-1])
    for function in (decode, decode_pixels, decode_rgb):
        assert np.array_equal(np.asarray(function(data)), expected), function
    assert np.array_equal(decode_image(data, 64), expected)
    assert decode_image(data, 20).shape[:2] in (expected.shape[:2], tuple(side // 2 for side in expected.shape[:2]))


def block(entries, order="<", *, start=8, number=None):
    """Return an EXIF block of entries: tag, type, number of values, and the four bytes of the value or offset."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    packed = b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0" + head + struct.pack(order + "H", len(entries) if number is None else number) + packed + bytes(4)


SIX = (module.ORIENTATION_TAG, 3, 1, b"\6\0\0\0")
FULL = [(tag, 7, 65_000, struct.pack("<I", 8)) for tag in range(1, 5_401)]
MALFORMED = {
    "nothing": b"",
    "a prefix": b"Exif\0\0",
    "no byte order": b"Exif\0\0XX" + block([SIX])[8:],
    "cut in the head": block([SIX])[:12],
    "cut in the entry": block([SIX])[:24],
    "no offset": block([SIX])[:10],
    "an offset behind the end": block([SIX], start=2**32 - 1),
    "an offset into the head, which loops": block([SIX], start=0),
    "orientation 0": block([(*SIX[:3], bytes(4))]),
    "orientation 9": block([(*SIX[:3], b"\x09\0\0\0")]),
    "a fraction": block([(module.ORIENTATION_TAG, 5, 1, struct.pack("<I", 8))]),
    "text": block([(module.ORIENTATION_TAG, 2, 1, b"6\0\0\0")]),
    "two values": block([(module.ORIENTATION_TAG, 3, 2, b"\6\0\6\0")]),
    "2^32 - 1 values": block([(module.ORIENTATION_TAG, 3, 2**32 - 1, b"\x08\0\0\0")]),
    "an IFD that is the thumbnail's": block([(1, 3, 1, bytes(4))]) + block([SIX])[14:],
    "an IFD of a sub-IFD alone": block([(0x8769, 4, 1, struct.pack("<I", 26))]) + block([SIX])[14:],
    "values of 350 MB": block(FULL),
    "an orientation behind too many entries": block([*FULL[:MAX_ENTRIES], SIX]),
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_malformed_exif_means_upright_and_costs_nothing(name, kind):
    assert parse_orientation(MALFORMED[name]) == 1
    plain = encoded(kind)
    data = with_exif(kind, MALFORMED[name])
    assert count_lines(module, lambda: read_orientation(data, kind.lower())) < 20_000
    with allocating(1 << 20):
        header = read_header(data)
    assert header == read_header(plain)
    assert np.array_equal(decode_pixels(data), decode_pixels(plain))


def with_exif(kind, data):
    plain = encoded(kind)
    if kind == "JPEG":
        return plain[:20] + segment(0xE1, data) + plain[20:]
    if kind == "PNG":
        return plain[:33] + png_chunk(b"eXIf", data.removeprefix(b"Exif\0\0")) + plain[33:]
    chunks = riff_chunk(
        b"VP8X", struct.pack("<I", 8) + struct.pack("<I", SIZE[0] - 1)[:3] + struct.pack("<I", SIZE[1] - 1)[:3]
    )
    body = b"WEBP" + chunks + plain[12:] + riff_chunk(b"EXIF", data)
    return b"RIFF" + struct.pack("<I", len(body)) + body


ENTRIES = st.lists(
    st.tuples(
        st.sampled_from([0x0112, 0x0112, 0x0110, 0x8769, 0x0111]),
        st.sampled_from([3, 4]),
        st.just(1),
        st.sampled_from([b"\6\0\0\0", b"\0\6\0\0", b"\0\0\0\6", b"\3\0\3\0", b"\x09\0\0\0", bytes(4)]),
    ),
    max_size=4,
)


def test_the_last_entry_may_end_the_block():
    assert parse_orientation(block([SIX])[:-4]) == 6


@given(ENTRIES, st.sampled_from("<>"))
def test_random_entries_are_read_as_by_pillow(entries, order):
    data = block(entries, order)
    found = Image.Exif()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found.load(data)
        theirs = found.get(module.ORIENTATION_TAG, 1)
    assert parse_orientation(data) == (theirs if theirs in range(1, 9) else 1)


def test_first_exif_segment_counts_and_neither_xmp_nor_a_thumbnail():
    jpeg = encoded("JPEG")
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'

    thumbnail = block([(1, 3, 1, bytes(4))]) + encoded("JPEG", 3)
    assert read_header(jpeg[:20] + segment(0xE1, xmp) + jpeg[20:]).orientation == 1
    assert read_header(jpeg[:20] + segment(0xE1, thumbnail) + jpeg[20:]).orientation == 1
    both = segment(0xE1, xmp) + segment(0xE1, block([SIX])) + segment(0xE1, block([(*SIX[:3], b"\x08\0\0\0")]))
    assert read_header(jpeg[:20] + both + jpeg[20:]).orientation == 6
    assert read_header(jpeg + encoded("JPEG", 3)).orientation == 1


def test_exif_of_an_avif_is_not_parsed():
    large = block([(tag, 7, 60_000, struct.pack("<I", 8)) for tag in range(1, 5_401)])
    keep = Image.Exif()
    keep[0x9286] = b"y" * len(large)
    avif = as_file(stored(), "AVIF", exif=keep.tobytes())
    at = avif.index(b"MM\0*", avif.index(b"mdat"))
    data = avif[:at] + large[6:] + avif[at + len(large) - 6 :]
    with allocating(4 << 20):
        assert read_header(data).orientation == 1
        decode(data)
    with Image.open(io.BytesIO(cut_metadata(data, "avif"))) as image:
        assert "exif" not in image.info
    six = avif[:at] + block([SIX])[6:] + avif[at + len(block([SIX])) - 6 :]
    assert read_header(six).orientation == 1, "only the properties of an AVIF count"
