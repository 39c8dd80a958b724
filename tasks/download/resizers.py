"""Resizes images, and makes small copies of a few of them for the report.

It checks the header of an image before img2dataset's Resizer decodes it, turns it upright, and decodes JPEGs smaller.
All of it happens in a process of its own, with a limit of memory (guarded_process.py).
"""

import io
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from types import ModuleType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dataops.images.decode import Header, ImageRefused, decode, is_deep, make_preview, read_header
from dataops.images.orientation import turn_pixels
from dataops.images.structure import cut_metadata
from dataops.kernels.without_package import without_package
from dataops.reasons import Reason
from tasks.download.guarded_process import MAX_TEXT, Function, FunctionFailed, GuardedProcess, ServerDied
from tasks.download.host_turns import CpuBudget, HostPool

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else albumentations looks for updates on import, by network


@contextmanager
def _empty_module(name: str, **attributes: object) -> Iterator[None]:
    """Let imports find an empty module inside the `with`, unless the real one is loaded."""
    module = ModuleType(name)
    module.__dict__.update(attributes)
    is_ours = sys.modules.setdefault(name, module) is module
    try:
        yield
    finally:
        if is_ours:  # the real one is imported where it is used: by train.wandb
            del sys.modules[name]


@contextmanager
def _forgotten(package: str) -> Iterator[None]:
    """Let the next import after the `with` load a package anew that was first loaded inside of it."""
    is_new = package not in sys.modules
    yield
    for name in [name for name in sys.modules if is_new and name.partition(".")[0] == package]:
        del sys.modules[name]


# wandb takes half a second and leaves two temporary folders. webdataset, for its tar writer, works without torch;
# albumentations loads huggingface_hub to share transforms, and SciPy for noise and blur.
with (
    warnings.catch_warnings(),
    _forgotten("webdataset"),  # without torch it has an empty DataLoader, which others must not get
    without_package("torch"),
    without_package("huggingface_hub"),
    _empty_module("wandb"),
    _empty_module("scipy", special=None),
    _empty_module("scipy.ndimage", gaussian_filter=None),
    _empty_module("img2dataset.main", main=None, download=None),
):
    warnings.filterwarnings("ignore", "'imghdr' is deprecated", DeprecationWarning)  # img2dataset imports it
    import albumentations
    from img2dataset import downloader, resizer
    from img2dataset.downloader import Downloader, compute_key
    from img2dataset.resizer import Resizer
    from img2dataset.writer import BufferedParquetWriter

_Decode = Callable[[np.ndarray, int], np.ndarray | None]

__all__ = ["BufferedParquetWriter", "Downloader", "Resizer", "compute_key", "use_decoder", "use_pool"]


@contextmanager
def use_pool(pool: HostPool) -> Iterator[None]:
    """Make Downloader fetch with the threads of `pool`, instead of those that it would start itself."""
    original = downloader.ThreadPool
    downloader.ThreadPool = lambda _: pool  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        downloader.ThreadPool = original  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def use_decoder(decode: _Decode) -> Iterator[None]:
    """Make Resizer decode with `decode`, which has the arguments and the result of `cv2.imdecode`.

    Resizer also constructs each transform only once.
    """
    original = resizer.A
    resizer.cv2, resizer.A = _Cv2(decode), _transforms  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        resizer.cv2, resizer.A = cv2, original


class _Cv2(ModuleType):
    """OpenCV with another `imdecode`."""

    def __init__(self, imdecode: _Decode):
        super().__init__("cv2")
        self.imdecode = imdecode

    def __getattr__(self, name: str) -> Any:
        return getattr(cv2, name)


class _Transforms:
    """The transforms of albumentations, each kept: validating its arguments takes longer than resizing an image.

    The transforms that Resizer uses draw no random numbers, so they give the same pixels at each use.
    """

    def __init__(self) -> None:
        self._kept: dict[str, object] = {}

    def __getattr__(self, name: str) -> Callable[..., object]:
        return partial(self._construct, name)

    def _construct(self, name: str, **options: object) -> object:
        key = f"{name} {options}"
        if key not in self._kept:
            self._kept[key] = getattr(albumentations, name)(**options)
        return self._kept[key]


_transforms = _Transforms()


Resized = tuple[bytes | None, int | None, int | None, int | None, int | None, str | None]
"""The result of a Resizer: the image, its size, the size of the original, and an error."""
KEPT, PER_REASON = 12, 4
"""Number of previews of a shard: of kept images, and of refused ones for each failure class."""
_MAX_AREA = 4_000_000
"""Maximum pixels of an image that is decoded for a preview."""
REDUCED = {
    2: (cv2.IMREAD_REDUCED_COLOR_2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
    4: (cv2.IMREAD_REDUCED_COLOR_4, cv2.IMREAD_REDUCED_GRAYSCALE_4),
    8: (cv2.IMREAD_REDUCED_COLOR_8, cv2.IMREAD_REDUCED_GRAYSCALE_8),
}


_STRIP_ROWS_AREA = 1 << 18
"""Number of pixels that are laid on white at a time."""
BYTES_PER_PIXEL, EXTRA_BYTES = 20, 256 << 20
"""Memory that decoding, resizing and encoding an image take at most: for each pixel, and besides."""


def memory_budget(max_image_area: int, image_size: int, max_aspect_ratio: float, max_bytes: int) -> int:
    """Return the bytes of memory that a process may allocate to resize an image. The arguments are the config's."""
    result_area = int(image_size * image_size * max_aspect_ratio)
    return EXTRA_BYTES + 4 * max_bytes + BYTES_PER_PIXEL * max(max_image_area, result_area)


class CheckedResizer(Resizer):
    """A Resizer that decodes only whole images with at most `max_image_area` pixels, by read_header.

    It turns each image upright first, as its EXIF says, so sizes, limits and crops are those of the upright image. The
    result has no EXIF. It lays images with transparency on white as img2dataset does, to the bit, but not in copies of 24
    bytes a pixel.
    """

    def __call__(self, img_stream: io.BytesIO, blurring_bbox_list: object = None) -> Resized:
        data = img_stream.getvalue()
        try:
            header = read_header(data, self.max_image_area)
            if header.kind == "avif" and header.mode == "RGBA" and 2 * header.area > self.max_image_area:
                raise ImageRefused(
                    Reason.TOO_MANY_PIXELS, f"{header.width}x{header.height} pixels with transparency in an avif"
                )
        except ImageRefused as refused:
            return None, None, None, None, None, str(refused)
        essential = cut_metadata(data, header.kind)  # OpenCV parses EXIF: 14 s for a block of 3 MB
        found = self.resize(io.BytesIO(essential), essential, header)
        message = found[5]
        if message is not None and ("Insufficient memory" in message or "Unable to allocate" in message):
            message = "out_of_memory: it takes more memory than the limit to decode"
        return *found[:5], message

    def resize(self, img_stream: io.BytesIO, data: bytes, header: Header) -> Resized:
        """Return the Resizer's result for an image that passed the checks."""
        decoder = (
            partial(decode_deep, header) if is_deep(data, header.kind) else partial(decode_upright, header.orientation)
        )
        with use_decoder(decoder):
            return super().__call__(img_stream)


def decode_deep(header: Header, buffer: np.ndarray, flags: int) -> np.ndarray | None:
    """Decode an image of more than 8 bits a channel to 8, as curate and training do, upright and on white."""
    try:
        image = np.ascontiguousarray(np.asarray(decode(bytes(buffer)))[..., ::-1])
    except ImageRefused:
        return None
    return image if header.kind == "avif" else turn_pixels(image, header.orientation)  # decode turns an AVIF


def decode_upright(orientation: int, buffer: np.ndarray, flags: int) -> np.ndarray | None:
    """Decode an image as `cv2.imdecode` does, lay transparency on white, and turn it upright.

    Args:
        flags: with these, OpenCV must not turn it.
    """
    image: Any = cv2.imdecode(buffer, flags)
    if image is None:
        return None
    if image.ndim == 3 and image.shape[2] == 4 and image.dtype == np.uint8:
        image = lay_on_white(image)
    return turn_pixels(image, orientation)


def lay_on_white(image_HW4: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the colours (height, width, 3) of an image on white, each as img2dataset's Resizer computes it."""
    height, width = image_HW4.shape[:2]
    opaque = np.empty((height, width, 3), np.uint8)
    table = _blended_colours()
    rows = max(1, _STRIP_ROWS_AREA // width)
    for top in range(0, height, rows):
        strip = image_HW4[top : top + rows]
        alpha = strip[..., 3:].astype(np.uint16) << 8
        np.take(table, alpha | strip[..., :3], out=opaque[top : top + rows], mode="clip")  # without a copy of `out`
    return opaque


@cache
def _blended_colours() -> NDArray[np.uint8]:
    """Return the blended colour for 256 x alpha + colour. Source: the formula of img2dataset's Resizer."""
    alpha, colour = np.arange(256)[:, None], np.arange(256)
    blended = alpha / 255 * colour + 255 - alpha
    return np.rint(blended.clip(min=0, max=255)).astype(np.uint8).ravel()


class FastResizer(CheckedResizer):
    """Decodes a JPEG at 1/2, 1/4 or 1/8 of its size, if that is not smaller than the target size.

    libjpeg's scaled decoding computes the smaller image from the 8x8 blocks of cosine coefficients, without the pixels
    between. img2dataset's Resizer then shrinks it by less than a half, for which linear interpolation is good enough.
    All other images (not a grey or RGB JPEG, or too small) are resized exactly.
    """

    def __init__(self, **options: Any):
        super().__init__(**options)
        limits = ("min_image_size", "max_image_area", "max_aspect_ratio")  # they hold for the original
        options = {name: value for name, value in options.items() if name not in limits}
        self._small_resizer = Resizer(**options, downscale_interpolation="linear")

    def resize(self, img_stream: io.BytesIO, data: bytes, header: Header) -> Resized:
        factor = self.factor(header)
        if factor == 1:
            return super().resize(img_stream, data, header)
        flags = REDUCED[factor][header.mode == "L"] | cv2.IMREAD_IGNORE_ORIENTATION
        small = decode_upright(header.orientation, np.frombuffer(data, np.uint8), flags)
        if small is None:
            return None, None, None, None, None, "Image decoding error"
        bitmap = io.BytesIO(cv2.imencode(".bmp", small)[1].tobytes())  # uncompressed, so it costs nearly nothing
        with use_decoder(cv2.imdecode):
            image, width, height, _, _, message = self._small_resizer(bitmap)
        if message:
            return image, width, height, None, None, message
        return image, width, height, header.width, header.height, message

    def factor(self, header: Header) -> int:
        """Return the factor by which an image may be decoded smaller: 2, 4, 8, or 1 to resize it exactly."""
        small, large = sorted((header.width, header.height))
        is_refused = small < self.min_image_size or large > self.max_aspect_ratio * small
        if is_refused or header.kind != "jpeg" or header.mode not in ("L", "RGB") or self.resize_mode.name == "no":
            return 1
        side = large if self.resize_mode.name in ("border", "keep_ratio_largest") else small
        return max((n for n in REDUCED if side >= n * self.image_size), default=1)


def preview_image(data: bytes) -> bytes | None:
    """Return a small JPEG of an image, if it can be decoded and is not too large."""
    try:
        read_header(data, _MAX_AREA)
        return make_preview(decode(data))
    except ImageRefused:
        return None


class Previews:
    """The previews of a shard. For each image, one thread calls `set_original`, then `add_kept` or `add_refused`.

    Args:
        preview: returns a small JPEG of an image, or None.
    """

    def __init__(self, preview: Callable[[bytes], bytes | None] = preview_image) -> None:
        self._preview = preview
        self.by_uid: dict[str, bytes] = {}
        """JPEGs."""
        self._original = b""
        self._numbers: Counter[str] = Counter()

    def set_original(self, original: bytes) -> None:
        """Store the bytes of the image that is processed next, as fetched."""
        self._original = original

    def add_kept(self, uid: str, image: bytes) -> None:
        """Add a preview of a resized image."""
        self._add(uid, "", image)

    def add_refused(self, uid: str, message: str) -> None:
        """Add a preview of the original that was refused with a message."""
        self._add(uid, message.partition(":")[0], self._original)

    def _add(self, uid: str, reason: str, data: bytes) -> None:
        self._original = b""
        if self._numbers[reason] >= (PER_REASON if reason else KEPT):
            return
        if preview := self._preview(data):
            self.by_uid[uid] = preview
            self._numbers[reason] += 1


class GuardedResizer:
    """What Downloader calls to resize an image: a resizer in another process, which an image may end.

    Args:
        process: it has the functions of `resize_functions`.
        previews: receives the original of each image.
        budget: what the images of each host may cost.
    """

    def __init__(self, process: GuardedProcess, previews: Previews, budget: CpuBudget):
        self._process, self._previews, self._budget = process, previews, budget

    def __call__(self, img_stream: io.BytesIO, blurring_bbox_list: object = None) -> Resized:
        data = img_stream.getvalue()
        if refusal := self._budget.refusal():
            return None, None, None, None, None, refusal
        self._previews.set_original(data)
        before = self._process.cpu_seconds
        try:
            image, others = self._process.call("resize", data)
        except ServerDied as died:
            self._previews.set_original(b"")  # it would be decoded
            return None, None, None, None, None, f"worker_died: {died}"
        finally:
            self._budget.charge(self._process.cpu_seconds - before, len(data))
        return image, *others


def resize_functions(resizer: Resizer) -> dict[str, Function]:
    """Return the functions of a GuardedProcess that resizes images, and makes previews."""

    def resize(data: bytes) -> tuple[bytes | None, object]:
        image, *others, message = resizer(io.BytesIO(data))
        return image, [*others, message and message[:MAX_TEXT]]

    return {"resize": resize, "preview": lambda data: (preview_image(data), None)}


def preview_in(process: GuardedProcess, data: bytes) -> bytes | None:
    """Return `preview_image` of an image, from another process."""
    try:
        return process.call("preview", data)[0]
    except (ServerDied, FunctionFailed):
        return None
