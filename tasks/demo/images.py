"""Pictures: SVG to PNG, rescaled and re-encoded copies, and the flat form that evaluation sets hold."""

import hashlib
import io
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Literal, TypeVar

import resvg_py
from PIL import Image

T = TypeVar("T")
Format = Literal["PNG", "JPEG", "WEBP"]

IMAGE_SIZE = 96
"""Side in px of published pictures: a third above the 64-72 px that the demo trains and evaluates at."""

_SERIAL_BELOW = 200


def render(svg: Path, size: int = IMAGE_SIZE) -> bytes:
    """A PNG of `size` x `size` px on a transparent background. OpenMoji has no <text>, so no font is looked up."""
    return resvg_py.svg_to_bytes(svg_path=str(svg), width=size, height=size, skip_system_fonts=True)


def render_all(svgs: Sequence[Path], workers: int = 2) -> list[bytes]:
    """PNGs of many drawings, in order."""
    return _in_processes(render, svgs, workers)


def flatten_all(pictures: Sequence[bytes], workers: int = 2) -> list[bytes]:
    """`flatten` of many pictures, in order."""
    return _in_processes(flatten, pictures, workers)


def image_digest(picture: bytes) -> str:
    """sha256 of the file's bytes, in hex."""
    return hashlib.sha256(picture).hexdigest()


def flatten(picture: bytes) -> bytes:
    """The picture over white, as a browser shows it, as an RGB PNG of the same size.

    Evaluation sets hold this form because tools differ on transparency: img2dataset mattes over white, PIL's
    `convert("RGB")` (open_clip's transform) throws the alpha channel away and mostly shows black.
    """
    return encode(_over_white(picture), "PNG")


def recode(picture: bytes, kind: Format, size: int) -> bytes:
    """A near-duplicate, as sites make them: rescaled over white and encoded anew."""
    return encode(_over_white(picture).resize((size, size), Image.Resampling.LANCZOS), kind)


def make_banner(pictures: Sequence[bytes], height: int) -> bytes:
    """A banner: pictures side by side over white, `height` px high."""
    banner = Image.new("RGB", (height * len(pictures), height), "white")
    for place, picture in enumerate(pictures):
        banner.paste(_over_white(picture).resize((height, height), Image.Resampling.LANCZOS), (place * height, 0))
    return encode(banner, "PNG")


def encode(image: Image.Image, kind: Format) -> bytes:
    """The image's file. Bytes depend on the pixels and on Pillow's version only."""
    out = io.BytesIO()
    image.save(out, kind, **({} if kind == "PNG" else {"quality": 70}))
    return out.getvalue()


def _over_white(picture: bytes) -> Image.Image:
    drawn = Image.open(io.BytesIO(picture)).convert("RGBA")
    white = Image.new("RGBA", drawn.size, "white")
    return Image.alpha_composite(white, drawn).convert("RGB")


def _in_processes(function: Callable[[T], bytes], items: Sequence[T], workers: int) -> list[bytes]:
    """Maps in processes, as resvg and Pillow's encoder hold the interpreter's lock; few items are not worth them."""
    if workers <= 1 or len(items) < _SERIAL_BELOW:
        return [function(item) for item in items]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(function, items, chunksize=64))
