"""Define the targets that are image files: their header, their pixels, and the marks in their metadata."""

import io
import struct
import zlib
from functools import lru_cache

from benchmarks.fuzzing.target import Limits, Parser, Target

_MAX_AREA = 1 << 20
_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description plus:DataMining="http://ns.useplus.org/ldf/vocab/'
    b'DMI-PROHIBITED-AIMLTRAINING"/></rdf:RDF></x:xmpmeta>'
)
_C2PA = b'{"c2pa.training-mining":{"entries":{"c2pa.ai_training":{"use":"notAllowed"}}}}'
_WORDS = tuple(
    b"\xff\xd8\xff|\xff\xda\0\x08\x01\x01\0\0\x3f\0|\xff\xd9|\xff\xe1|\xff\xfe\xff\xff|\xff\xff|\xff\xc0\0\x11\x08|Exif\0\0II*\0|"
    b"Exif\0\0MM\0*|ICC_PROFILE\0\x01\x01|http://ns.adobe.com/xap/1.0/\0|IHDR|IDAT|IEND\xaeB`\x82|PLTE|tRNS|zTXt|iTXt|eXIf|acTL|"
    b"fcTL|fdAT|GIF89a|!\xf9\x04\x01\0\0\0\0|!\xfe\xff|,\0\0\0\0|;|RIFF|WEBPVP8X|VP8L|VP8 |ANMF|ALPH|EXIF|XMP |ftypavif|"
    b"meta|iprp|ipco|ispe|av1C|iloc|iinf|infe|mdat|BM|DataMining|DMI-|c2pa.ai_training|training-mining|"
    b"notAllowed".split(b"|")
)


@lru_cache(maxsize=1)
def image_files():
    """Return small images in six formats, with EXIF, ICC and XMP where the format has them."""
    import numpy as np
    from PIL import Image, ImageCms

    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 4), np.uint8)
    rgba = Image.fromarray(pixels, "RGBA")
    rgb, exif = rgba.convert("RGB"), Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    metadata = {"exif": exif.tobytes(), "icc_profile": icc}
    found = []

    def save(image, kind, **options):
        sink = io.BytesIO()
        image.save(sink, kind, **options)
        found.append(sink.getvalue())

    save(rgb, "JPEG", xmp=_XMP, **metadata)
    save(rgb, "JPEG", progressive=True, comment=b"a comment")
    save(rgb.convert("L"), "JPEG")
    save(rgb.convert("CMYK"), "JPEG")
    for mode in ("RGB", "RGBA", "P", "L", "1", "LA", "I;16"):
        save(
            (rgb if mode in ("P", "L", "1") else rgba).convert(mode if mode != "I;16" else "I").convert(mode),
            "PNG",
            **metadata,
        )
    save(rgb, "PNG", save_all=True, append_images=[rgba.convert("RGB").rotate(90)])
    save(rgba, "WEBP", xmp=_XMP, **metadata)
    save(rgba, "WEBP", lossless=True)
    save(rgb, "WEBP", save_all=True, append_images=[rgb.rotate(90)])
    save(rgb.quantize(16), "GIF", comment=b"a comment", save_all=True, append_images=[rgb.quantize(8)], transparency=1)
    save(rgb, "BMP")
    save(rgb.quantize(16), "BMP")
    save(rgba, "AVIF", quality=50, speed=10, **metadata)
    chunk = b"iTXtXML:com.adobe.xmp\0\0\0\0\0" + _XMP
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    found.append(found[4][:33] + chunk + found[4][33:])
    found.append(
        found[2][:2] + b"\xff\xeb" + struct.pack(">H", len(_C2PA) + 10) + b"JP\0\0\0\0\0\x01" + _C2PA + found[2][2:]
    )
    return found


def _load_header():
    from dataops.images.decode import ImageRefused, read_header
    from dataops.images.kinds import sniff
    from dataops.rights.signals import find_in_image

    def parse(data):
        marks = find_in_image(data, sniff(data) or "")[:2]
        header = read_header(data, _MAX_AREA)
        assert 0 < header.width * header.height <= _MAX_AREA
        return f"{header.kind} {header.mode} {marks!r}"

    return Parser(parse, (ImageRefused,))


def _load_decode():
    from dataops.images.decode import ImageRefused, decode_pixels

    def parse(data):
        pixels = decode_pixels(data, _MAX_AREA)
        assert pixels.dtype == "uint8"
        assert pixels.shape[2] == 3
        assert pixels.size <= 3 * _MAX_AREA
        return f"{data[:4]!r} {pixels.flags['C_CONTIGUOUS']}"

    return Parser(parse, (ImageRefused,))


def _load_training_decode():
    from dataops.images.decode import ImageRefused, read_header
    from training.data.decode import decode_image

    def parse(data):
        try:
            read_header(data, _MAX_AREA)
        except ImageRefused as refused:
            if refused.reason == "too_many_pixels":  # allowed there, and slow
                raise
        return f"{data[:4]!r} {decode_image(data, 16).shape[2]}"

    return Parser(parse, (ValueError,))


_LIMITS = Limits(seconds=2.0, memory_mb=120)

IMAGE_TARGETS = (
    Target("image_header", _load_header, image_files, _WORDS, _LIMITS),
    Target("image_decode", _load_decode, image_files, _WORDS, _LIMITS),
    Target("image_training", _load_training_decode, image_files, _WORDS, _LIMITS),
)
"""Targets of images."""
