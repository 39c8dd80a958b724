import base64
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dataops.images.decode import ImageRefused, decode, decode_pixels, is_truncated, read_header
from dataops.images.kinds import sniff
from tests.image_files import as_file, noise, segment


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not_an_image"),
        (b"\xef\xbb\xbf \n<!DOCTYPE HTML><p>", "not_an_image"),
        (b"<br>404", "not_an_image"),
        (b"\x1f\x8b\x08", "not_an_image"),
        (b"%PDF-1.7", "not_an_image"),
        (b'<?xml version="1.0"?>\n<!-- x --><svg width="1"/>', "unsupported_format"),
        (noise("TIFF"), "unsupported_format"),
        (noise("ICO"), "unsupported_format"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "decode"),
        (b"\xff\xd8\xff\xe0", "decode"),
        (b"GIF89a", "decode"),
    ],
)
def test_read_header_refuses_other_bytes_with_a_reason(data, reason):
    with pytest.raises(ImageRefused) as refused:
        read_header(data)
    assert refused.value.reason == reason
    assert str(refused.value).startswith(f"{reason}: ")


def test_png_of_16_bits_keeps_the_upper_8():
    deep = np.random.default_rng(0).integers(0, 1 << 16, (8, 9), np.uint16)
    assert (decode_pixels(as_file(Image.fromarray(deep))) == (deep >> 8)[..., None]).all()


def test_avif_of_10_and_12_bits_is_decoded_to_8():
    cv2 = pytest.importorskip("cv2")
    plain = cv2.resize(np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8), (48, 32))
    for depth in (8, 10, 12):
        _, data = cv2.imencode(".avif", plain if depth == 8 else plain.astype(np.uint16) << depth - 8,
                               [cv2.IMWRITE_AVIF_DEPTH, depth, cv2.IMWRITE_AVIF_QUALITY, 100])  # fmt: skip
        found = decode_pixels(data.tobytes())[..., ::-1].astype(int)
        assert np.abs(found - plain).max() <= 6, depth


def test_read_header_refuses_too_many_pixels():
    data = bytearray(noise("PNG"))
    data[16:24] = struct.pack(">II", 50_000, 50_000)  # this breaks its checksum too
    with pytest.raises(ImageRefused, match=r"too_many_pixels|decode"):
        read_header(bytes(data), max_area=10**6)
    with pytest.raises(ImageRefused, match="too_many_pixels: 90x60 pixels"):
        read_header(noise("PNG"), max_area=90 * 60 - 1)
    assert read_header(noise("PNG"), max_area=90 * 60)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("WEBP", {"lossless": True})],
)
def test_is_truncated_when_cut_anywhere(kind, options):
    data = noise(kind, size=(40, 30), **options)
    assert not is_truncated(data, kind.lower())
    assert not is_truncated(data + b"trailing bytes", kind.lower())
    for end in range(20, len(data) - 1, 7):
        assert is_truncated(data[:end], kind.lower()), end


ARITHMETIC = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEyccHhcgLikxMC4pLSwzOko+MzZGNywtQFdBRkxOUlNSMj5aYVpQ"
    "YEpRUk//yQALCAAYACABAREA/8wABgAQEAX/2gAIAQEAAD8A/wCVzbBwHz0jh7I9RHPHENydGgzr65QwYapeCyY/yP/Z"
)
"""32 x 24 grey pixels, with arithmetic coding."""
THUMBNAIL = noise("JPEG", size=(16, 16))
CODED = {
    "sequential": noise("JPEG"),
    "progressive": noise("JPEG", progressive=True),
    "with restarts": noise("JPEG", restart_marker_blocks=2),
    "grey": noise("JPEG", "L"),
    "CMYK": noise("JPEG", "CMYK"),
    "arithmetic": ARITHMETIC,
}


TABLES = b"\xff\xdb"


def before(marker, jpeg, junk):
    return jpeg.replace(marker, junk + marker, 1)


def between_scans(jpeg, junk):
    """Add bytes behind the first scan: before the next tables of a progressive JPEG, else before its end."""
    at = jpeg.find(b"\xff\xc4", jpeg.index(b"\xff\xda"))
    return jpeg[:at] + junk + jpeg[at:] if at > 0 else jpeg[:-2] + junk + jpeg[-2:]


ODD = {
    "zeros between segments": lambda jpeg: before(TABLES, jpeg, bytes(100)),
    "many zeros between segments": lambda jpeg: before(TABLES, jpeg, bytes(500_000)),
    "text between segments": lambda jpeg: before(TABLES, jpeg, b"<!-- text -->"),
    "stuffed bytes between segments": lambda jpeg: before(TABLES, jpeg, b"\xff\0" * 10_000),
    "a restart between segments": lambda jpeg: before(TABLES, jpeg, b"\xff\xd3"),
    "fill bytes": lambda jpeg: before(TABLES, jpeg, b"\xff" * 3_000),
    "junk and fill bytes": lambda jpeg: before(TABLES, jpeg, b"\0\xff\xff\0ab\xff\xff"),
    "junk before the scan": lambda jpeg: before(b"\xff\xda", jpeg, b"junk"),
    "junk between scans": lambda jpeg: between_scans(jpeg, b"\0junk"),
    "fill bytes before the end": lambda jpeg: jpeg[:-2] + b"\xff\xff" + jpeg[-2:],
    "two ends": lambda jpeg: jpeg + b"\xff\xd9",
    "bytes behind the end": lambda jpeg: jpeg + b"\r\n" + bytes(5_000),
    "a thumbnail in EXIF": lambda jpeg: before(TABLES, jpeg, segment(0xE1, b"Exif\0\0" + THUMBNAIL)),
    "a thumbnail behind the first scan": lambda jpeg: between_scans(jpeg, segment(0xE2, b"MPF\0" + THUMBNAIL)),
    "another picture behind the end": lambda jpeg: jpeg + THUMBNAIL,
    "another picture that is cut": lambda jpeg: jpeg + THUMBNAIL[:-50],
}


@pytest.mark.parametrize("coding", CODED)
@pytest.mark.parametrize("odd", ODD)
def test_jpeg_that_libjpeg_decodes_whole_is_not_truncated(coding, odd):
    jpeg = CODED[coding]
    data = ODD[odd](jpeg)
    assert len(data) > len(jpeg)
    assert read_header(data) == read_header(jpeg)
    assert np.array_equal(np.asarray(decode(data)), np.asarray(decode(jpeg)))
    if not odd.startswith("junk b"):  # a message on junk in or behind a scan may also mean that its pixels are damaged
        assert np.array_equal(decode_pixels(data), decode_pixels(jpeg))


@pytest.mark.parametrize("coding", CODED)
def test_jpeg_that_is_cut_is_truncated_whatever_follows_or_lies_inside(coding):
    jpeg = CODED[coding]
    inside = before(TABLES, jpeg, segment(0xE1, b"Exif\0\0" + THUMBNAIL))
    behind = between_scans(jpeg, segment(0xE2, b"MPF\0" + THUMBNAIL))
    scan = jpeg[jpeg.index(b"\xff\xda") :][:20]
    for whole, end in ((jpeg, len(jpeg) - 1), (inside, len(inside) - 1), (behind, behind.index(b"\xff\xe2"))):
        for cut in range(whole.index(scan) + len(scan), end, max(1, len(whole) // 40)):
            for more in (b"", bytes(100), b"<html>cut</html>", THUMBNAIL):
                with pytest.raises(ImageRefused, match="truncated: "):
                    read_header(whole[:cut].rstrip(b"\xff") + more)
    with pytest.raises(ImageRefused, match="truncated: "):
        read_header(behind[: len(behind) - 50])


@given(st.binary(max_size=300), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8 "]))
def test_decoders_raise_only_image_refused_on_any_bytes(data, start):
    for function in (read_header, decode, decode_pixels):
        try:
            function(start + data)
        except ImageRefused as refused:
            assert refused.reason  # noqa: PT017
    sniff(data)


def test_decode_puts_transparency_on_white_and_refuses_damage():
    image = decode(as_file(Image.new("RGBA", (4, 4), (255, 0, 0, 0))))
    assert image.mode == "RGB"
    assert image.getpixel((1, 1)) == (255, 255, 255)
    assert decode(noise("JPEG", "CMYK")).size == (90, 60)
    with pytest.raises(ImageRefused, match="corrupt: jpeg"):
        decode(noise("JPEG")[:1500])


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}])
def test_decode_pixels_of_a_jpeg_equals_pillow(mode, options):
    for seed, size in enumerate([(90, 60), (61, 17), (1, 1)]):
        data = noise("JPEG", mode, size, seed, **options)
        assert np.array_equal(decode_pixels(data), np.asarray(decode(data)))
