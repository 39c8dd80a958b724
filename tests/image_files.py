"""Files of images, and the parts of them that their formats are made of."""

import io
import struct
import sys
import zlib
from contextlib import suppress

import numpy as np
from PIL import Image


def as_file(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def noise(kind, mode="RGB", size=(90, 60), seed=0, **options):
    """Return a file of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return as_file(Image.fromarray(pixels).convert(mode), kind, **options)


def photo(number, kind="JPEG", side=72):
    """Return a file of smooth colours; those of other numbers look different."""
    colours = np.random.default_rng(number).integers(0, 256, (6, 6, 3), np.uint8)
    return as_file(Image.fromarray(colours).resize((side, side), Image.Resampling.BICUBIC), kind)


def segment(marker, data):
    """Return a segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def png_chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def riff_chunk(name, data):
    """Return a chunk of a WebP."""
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def count_lines(module, function):
    """Return the number of lines of a module that a call executes, also if it raises a ValueError."""
    lines = 0

    def trace(frame, event, _):
        nonlocal lines
        if frame.f_code.co_filename != module.__file__:
            return None
        lines += event == "line"
        return trace

    sys.settrace(trace)
    try:
        with suppress(ValueError):
            function()
    finally:
        sys.settrace(None)
    return lines
