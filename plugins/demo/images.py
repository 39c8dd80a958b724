"""Render SVG as PNG, make rescaled and re-encoded copies, and flatten images for evaluation sets."""

import hashlib
import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import resvg_py
from PIL import Image

from tasks.engine.context import worker_pool

T = TypeVar("T")
Format = Literal["PNG", "JPEG", "WEBP"]

IMAGE_SIZE = 96
"""Side of published images in pixels: a third above the 64-72 that the demo trains and evaluates with."""

_SERIAL_BELOW = 200


def render(svg: Path, size: int = IMAGE_SIZE) -> bytes:
    """Render a PNG of `size` x `size` pixels on a transparent background. OpenMoji has no <text>, so no font is needed."""
    return resvg_py.svg_to_bytes(svg_path=str(svg), width=size, height=size, skip_system_fonts=True)


def render_all(svgs: Sequence[Path], workers: int = 2) -> list[bytes]:
    """Render many SVGs as PNG, in order."""
    return _in_processes(render, svgs, workers)


def flatten_all(images: Sequence[bytes], workers: int = 2) -> list[bytes]:
    """Flatten many images, in order."""
    return _in_processes(flatten, images, workers)


def image_digest(image: bytes) -> str:
    """Return the SHA-256 of the file's bytes, in hex."""
    return hashlib.sha256(image).hexdigest()


def flatten(image: bytes) -> bytes:
    """Return the image on white, as a browser shows it, as an RGB PNG of the same size.

    Evaluation sets contain this form because tools differ on transparency: img2dataset puts it on white, PIL's
    `convert("RGB")` (open_clip's transform) drops the alpha channel and mostly shows black.
    """
    return encode(_on_white(image), "PNG")


def recode(image: bytes, kind: Format, size: int) -> bytes:
    """Return a near-duplicate, as sites make them: rescaled on white and encoded again."""
    return encode(_on_white(image).resize((size, size), Image.Resampling.LANCZOS), kind)


def make_banner(images: Sequence[bytes], height: int) -> bytes:
    """Return a banner of images side by side on white, `height` pixels high."""
    banner = Image.new("RGB", (height * len(images), height), "white")
    for index, image in enumerate(images):
        banner.paste(_on_white(image).resize((height, height), Image.Resampling.LANCZOS), (index * height, 0))
    return encode(banner, "PNG")


def encode(image: Image.Image, kind: Format) -> bytes:
    """Encode an image. The bytes depend only on the pixels and on Pillow's version."""
    out = io.BytesIO()
    image.save(out, kind, **({} if kind == "PNG" else {"quality": 70}))
    return out.getvalue()


def _on_white(image: bytes) -> Image.Image:
    decoded = Image.open(io.BytesIO(image)).convert("RGBA")
    white = Image.new("RGBA", decoded.size, "white")
    return Image.alpha_composite(white, decoded).convert("RGB")


def _in_processes(function: Callable[[T], bytes], items: Sequence[T], workers: int) -> list[bytes]:
    """Map in processes, because resvg and Pillow's encoder hold the GIL; few items are mapped in this process."""
    if workers <= 1 or len(items) < _SERIAL_BELOW:
        return _in_turn(function, items)
    chunks = [items[start : start + 64] for start in range(0, len(items), 64)]
    with worker_pool(workers) as pool:
        return [image for chunk in pool.map(partial(_in_turn, function), chunks) for image in chunk]


def _in_turn(function: Callable[[T], bytes], items: Sequence[T]) -> list[bytes]:
    return [function(item) for item in items]
