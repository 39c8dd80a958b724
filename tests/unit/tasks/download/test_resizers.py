"""Compares the fast resizer with the exact one, which is img2dataset's."""

import io
from itertools import cycle

import cv2
import numpy as np
import pytest
from PIL import Image

from dataops.images.orientation import ORIENTATION_TAG, turn_image
from tasks.download.guarded_process import GuardedProcess, ServerLimits
from tasks.download.host_turns import CpuBudget, HostPace, HostPool, PaceLimits
from tasks.download.resizers import (
    BYTES_PER_PIXEL,
    CheckedResizer,
    FastResizer,
    GuardedResizer,
    Previews,
    Resizer,
    lay_on_white,
    resize_functions,
)
from tests.costs import forget_peak, read_status
from tests.photographs import photograph
from tests.python_code import run_python

# img2dataset pads with an argument that albumentations has renamed
pytestmark = pytest.mark.filterwarnings("ignore:.*fill instead:DeprecationWarning", "ignore:.*fill instead:UserWarning")
MODES = ["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"]


LIMIT_AREA = 2000 * 2000


def reduced(size, mode="RGB", kind="JPEG", **options):
    image = photograph("china.jpg")
    sink = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).convert(mode).save(sink, kind, **({"quality": 90} | options))
    return sink.getvalue()


def resizers(**options):
    known = {"image_size": 128, "resize_mode": "keep_ratio", "resize_only_if_bigger": False} | options
    return Resizer(**known), CheckedResizer(**known), FastResizer(**known)


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)), np.float64)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(640, 424), (643, 427), (200, 1100), (90, 60)])
def test_resizers_give_the_same_sizes_and_similar_pixels(mode, size):
    theirs, checked, fast = (resize(io.BytesIO(reduced(size))) for resize in resizers(resize_mode=mode))
    assert checked == theirs, "all bits are equal by default"
    assert fast[3:] == theirs[3:] == (*size, None)
    # The smaller picture's sides are rounded, and the result's with them.
    assert all(abs(a - b) <= 1 for a, b in zip(fast[1:3], theirs[1:3], strict=True))
    if size[0] % 8 == size[1] % 8 == 0:  # else it is shifted by a fraction of a pixel
        error = np.mean((pixels(fast[0]) - pixels(theirs[0])) ** 2)
        assert 10 * np.log10(255**2 / max(error, 1e-9)) > 26


def rotated(size, orientation, kind="JPEG", mode="RGB"):
    """Return an image whose EXIF has an orientation, and a PNG of its upright pixels as OpenCV decodes them."""
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    data = reduced(size, mode, kind, exif=exif.tobytes())
    stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    upright = np.asarray(turn_image(Image.fromarray(stored), orientation))
    return data, cv2.imencode(".png", upright)[1].tobytes()


@pytest.mark.parametrize(("orientation", "mode"), list(zip(range(1, 9), cycle(MODES))))
def test_images_are_stored_upright_as_img2dataset_resizes_upright_ones(mode, orientation):
    data, upright = rotated((640, 424), orientation)
    theirs, checked, fast = resizers(resize_mode=mode, encode_format="png", encode_quality=1)
    expected = theirs(io.BytesIO(upright))
    assert checked(io.BytesIO(data)) == expected, "all bits are equal"
    found = fast(io.BytesIO(data))
    assert found[1:] == expected[1:]
    assert found[3:5] == ((640, 424) if orientation < 5 else (424, 640))
    error = np.mean((pixels(found[0]) - pixels(expected[0])) ** 2)
    assert 10 * np.log10(255**2 / max(error, 1e-9)) > 26
    assert not Image.open(io.BytesIO(found[0])).getexif()


def test_limits_are_those_of_the_upright_image():
    data, upright = rotated((640, 100), 6)
    for options in ({"min_image_size": 101}, {"max_aspect_ratio": 6.0}, {"max_image_area": 63_999}):
        theirs, checked, fast = resizers(**options)
        messages = {resize(io.BytesIO(data))[5].partition(":")[0] for resize in (checked, fast)}
        assert len(messages) == 1
        assert messages in ({theirs(io.BytesIO(upright))[5]}, {"too_many_pixels"})


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "AVIF"])
def test_decoders_get_no_exif(kind, monkeypatch):
    """OpenCV takes a time that grows with the square of a block's size."""
    with_text = Image.Exif()
    with_text[0x010E] = "a description"
    data = reduced((640, 424), kind=kind, exif=with_text.tobytes())
    assert b"a description" in data
    seen = []
    decode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda buffer, flags: seen.append(bytes(buffer)) or decode(buffer, flags))
    theirs, checked, fast = resizers()
    expected = theirs(io.BytesIO(data))
    seen.clear()
    assert checked(io.BytesIO(data)) == expected
    assert fast(io.BytesIO(data))[5] is None
    seen = [given for given in seen if not given.startswith(b"BM")]  # what the fast resizer decoded
    assert len(seen) == 2
    for given in seen:
        assert (b"a description" in given) == (kind == "AVIF"), "it is there, but as an item of no known type"
        with Image.open(io.BytesIO(given)) as image:
            assert "exif" not in image.info


def test_lay_on_white_is_exact_for_each_alpha_and_colour():
    alpha, colour = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    image = np.tile(np.stack([colour, colour, colour, alpha], axis=-1), (6, 1, 1))[:-9]  # in several strips
    alpha = image[:, :, 3, np.newaxis]
    expected = np.rint((alpha / 255 * image[..., :3] + 255 - alpha).clip(min=0, max=255)).astype(np.uint8)
    assert np.array_equal(lay_on_white(image), expected)


def drawing(kind, mode, size=(300, 200), **options):
    """Return a photograph with a gradient of transparency."""
    image = photograph("flower.jpg").resize(size)
    image.putalpha(Image.linear_gradient("L").resize(size))
    sink = io.BytesIO()
    image = image.convert("RGB").convert("P") if mode == "P" else image.convert(mode)
    image.save(sink, kind, **options)
    return sink.getvalue()


def plain(kind, mode, side, **options):
    """Return a square of one colour, of few bytes."""
    image = Image.new("RGBA", (side, side), (200, 30, 60, 128))
    sink = io.BytesIO()
    (image.convert("RGB").convert("P") if mode == "P" else image.convert(mode)).save(sink, kind, **options)
    return sink.getvalue()


FORMATS = {
    "PNG LA": ("PNG", "LA", {}),
    "PNG RGBA": ("PNG", "RGBA", {}),
    "PNG P": ("PNG", "P", {"transparency": 7}),
    "PNG L": ("PNG", "L", {}),
    "PNG 1": ("PNG", "1", {}),
    "PNG RGB": ("PNG", "RGB", {}),
    "WEBP RGB": ("WEBP", "RGB", {}),
    "WEBP RGBA": ("WEBP", "RGBA", {}),
    "WEBP RGBA lossless": ("WEBP", "RGBA", {"lossless": True, "method": 0}),
    "JPEG L": ("JPEG", "L", {}),
    "JPEG RGB": ("JPEG", "RGB", {}),
    "JPEG RGB progressive": ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
    "JPEG CMYK progressive": ("JPEG", "CMYK", {"progressive": True, "subsampling": 0}),
    "GIF P": ("GIF", "P", {"transparency": 7}),
    "BMP L": ("BMP", "L", {}),
    "BMP RGBA": ("BMP", "RGBA", {}),
    "AVIF RGB": ("AVIF", "RGB", {"speed": 10, "subsampling": "4:4:4"}),
    "AVIF RGBA": ("AVIF", "RGBA", {"speed": 10, "subsampling": "4:4:4"}),
}


WORST = [
    name for name in FORMATS if name not in ("PNG L", "PNG RGB", "WEBP RGB", "JPEG L", "JPEG RGB", "BMP L", "AVIF RGB")
]
"""The others take less memory in the same decoders."""


@pytest.mark.parametrize("name", FORMATS)
def test_checked_resizer_gives_the_bytes_of_img2dataset(name):
    kind, mode, options = FORMATS[name]
    data = drawing(kind, mode, **options)
    for known in ({"resize_mode": "no"}, {}, {"encode_format": "png", "encode_quality": 1}):
        theirs, checked, _ = (resize(io.BytesIO(data)) for resize in resizers(**known))
        assert checked == theirs
        assert checked[5] is None


@pytest.mark.parametrize("name", [*WORST, "PNG frames", "WEBP frames"])
def test_worst_accepted_images_keep_to_the_memory_per_pixel(name):
    side = int(LIMIT_AREA**0.5)
    if "frames" in name:
        more = [Image.new("RGBA", (side, side), (1, 2, 3, 4))]
        data = plain(name.split()[0], "RGBA", side, save_all=True, append_images=more, duration=50)
    else:
        kind, mode, options = FORMATS[name]
        side = int((LIMIT_AREA / 2) ** 0.5) if name == "AVIF RGBA" else side
        data = plain(kind, mode, side, **options)
    resizer = CheckedResizer(
        image_size=64, resize_mode="keep_ratio", resize_only_if_bigger=False, max_image_area=LIMIT_AREA
    )
    small = drawing("PNG", "RGB")

    functions = resize_functions(resizer) | {
        "start": lambda _: (None, forget_peak()),
        "peak": lambda _: (None, read_status("VmHWM")),
    }
    spare = 24 << 20
    with GuardedProcess(functions, ServerLimits(spare + BYTES_PER_PIXEL * LIMIT_AREA + 4 * len(data))) as process:
        process.call("resize", small)
        before = process.call("start", b"")[1]
        image, found = process.call("resize", data)
        peak = process.call("peak", b"")[1]
    assert image is not None, found
    assert found == [64, 64, side, side, None]
    assert peak - before < spare + BYTES_PER_PIXEL * LIMIT_AREA + 4 * len(data)


def test_image_that_takes_more_memory_than_the_limit_is_a_row():
    """In a process of its own: what the heap of this one has free would be added to the limit."""
    run_python(f"import {__name__} as tests; tests.check_image_beyond_the_limit()")


def check_image_beyond_the_limit():
    _, checked, _ = resizers()
    with GuardedProcess(resize_functions(checked), ServerLimits(12 << 20)) as process:
        resize = GuardedResizer(process, Previews(), CpuBudget(HostPool(1, HostPace(PaceLimits()))))
        message = resize(io.BytesIO(plain("PNG", "RGBA", 5000)))[5]
        assert message.startswith(("out_of_memory: ", "worker_died: ", "decode: "))
        assert resize(io.BytesIO(drawing("PNG", "RGB")))[5] is None


def test_transparent_avif_counts_twice():
    _, checked, _ = resizers(max_image_area=300 * 200)
    assert checked(io.BytesIO(drawing("AVIF", "RGB")))[5] is None
    assert checked(io.BytesIO(drawing("AVIF", "RGBA")))[5].startswith("too_many_pixels: 300x200 pixels with transp")


@pytest.mark.parametrize("kind", ["png", "avif"])
def test_images_of_more_than_8_bits_are_resized_as_those_of_their_upper_8(kind):
    plain = cv2.resize(np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8), (96, 64))
    options = [cv2.IMWRITE_AVIF_DEPTH, 10, cv2.IMWRITE_AVIF_QUALITY, 100] if kind == "avif" else []
    deep = plain.astype(np.uint16) << (2 if kind == "avif" else 8)
    _, data = cv2.imencode(f".{kind}", deep, options)
    _, checked, fast = resizers(image_size=32)
    found, expected = checked(io.BytesIO(data.tobytes())), checked(io.BytesIO(cv2.imencode(".png", plain)[1].tobytes()))
    assert found[1:] == expected[1:] == fast(io.BytesIO(data.tobytes()))[1:]
    assert np.abs(pixels(found[0]) - pixels(expected[0])).max() <= 12
