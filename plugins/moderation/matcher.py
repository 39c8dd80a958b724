"""Compare the bytes of an image with the lists of known harmful images, in memory.

PDQ needs the pixels. They are decoded in a child process with limits, which gets the bytes through a file in memory
(tasks/download/guarded_process.py). An image that cannot be compared is not kept either.
"""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from dataops.images.decode import ImageRefused, decode, is_deep, read_header
from dataops.images.digests import DistanceSet
from dataops.images.kinds import KINDS, sniff
from dataops.images.orientation import turn_pixels
from dataops.images.structure import cut_metadata
from dataops.lists.value_set import ValueSet, parse_values
from dataops.snapshot import Draft
from plugins.moderation.hash_lists import StoredHashLists
from plugins.moderation.lists_config import KNOWN_HARM, Kind
from plugins.moderation.pdq import compute_pdq
from tasks.download.guarded_process import FunctionFailed, GuardedProcess, ServerDied, ServerLimits, SupervisorLost
from tasks.download.hooks import ShardHook
from tasks.web.fetch_error import FetchError


class HarmMatcher(ShardHook):
    """Compares images with the lists, inside the `with`; safe for many threads. Enter it before threads are started.

    Args:
        max_image_area: maximum pixels of an image that is decoded.
        memory: bytes that the decoding process may allocate.
    """

    _lost: SupervisorLost | None = None  # images that were not compared have failed

    def __init__(self, stored: StoredHashLists, draft: Draft, max_image_area: int, memory: int):
        self._stored, self._max_image_area, self._memory = stored, max_image_area, memory
        self._lists: Sequence[tuple[Kind, str, ValueSet | DistanceSet]] = stored.load(draft)
        self._has_pdq = any(kind == "pdq" for kind, _ in stored.lists)
        self._decoder: GuardedProcess | None = None
        self._lock, self._stack = threading.Lock(), ExitStack()

    def __enter__(self) -> Self:
        if self._has_pdq:
            hashes = {"pdq": lambda data: hash_variants(data, self._max_image_area)}
            self._decoder = self._stack.enter_context(GuardedProcess(hashes, ServerLimits(self._memory)))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def end(self) -> None:
        if self._lost:
            raise self._lost

    def check(self, body: bytes) -> None:
        """Raise FetchError if a list names the bytes: with KNOWN_HARM and the list's name only, or why they cannot be
        compared.
        """
        for kind, name, listed in self._lists:
            if isinstance(listed, ValueSet):
                hidden = self._stored.hide(hashlib.new(kind, body, usedforsecurity=False).digest())
                if listed.contains(parse_values(hidden))[0]:
                    raise FetchError(KNOWN_HARM, name)
        if self._has_pdq and sniff(body) in KINDS:
            self._check_pdq(body)

    def _check_pdq(self, body: bytes) -> None:
        for words, quality in self._hash(body):
            if quality < self._stored.pdq_min_quality:
                continue
            hidden = self._stored.hide_pdq(words)
            for _, name, listed in self._lists:
                if isinstance(listed, DistanceSet) and listed.find_near(hidden, self._stored.pdq_max_distance):
                    raise FetchError(KNOWN_HARM, name)

    def _hash(self, body: bytes) -> list[tuple[NDArray[np.uint64], int]]:
        assert self._decoder is not None
        try:
            with self._lock:
                found, value = self._decoder.call("pdq", body)
        except ServerDied as died:
            raise FetchError("worker_died", str(died)) from died
        except SupervisorLost as lost:
            self._lost = lost
            raise FetchError("worker_died", str(lost)) from lost
        except FunctionFailed as failed:
            raise FetchError("decode", "it cannot be compared with the PDQ lists") from failed
        if found is None:
            raise FetchError(*value)
        hashes = np.frombuffer(found, np.uint64).reshape(-1, 4)
        return list(zip(hashes, value, strict=True))


def hash_variants(data: bytes, max_image_area: int) -> tuple[bytes | None, Any]:
    """Return the PDQ of an image as other programs may have decoded it, and the quality of each.

    These are: as it is stored, and upright, if its EXIF turns it; without its transparency, and on white.

    Returns: None and the drop reason with its detail, for an image that the download would refuse too.
    """
    try:
        header = read_header(data, max_image_area)
    except ImageRefused as refused:
        reason, _, detail = str(refused).partition(": ")
        return None, [reason, detail[:200]]
    essential = cut_metadata(data, header.kind)
    pixels: Any = cv2.imdecode(np.frombuffer(essential, np.uint8), cv2.IMREAD_UNCHANGED)
    if is_deep(data, header.kind):
        try:
            pixels = np.asarray(decode(essential))[..., ::-1]
        except ImageRefused:
            pixels = None
    if pixels is None:
        return None, ["decode", f"unreadable {header.kind}"]
    found: list[tuple[NDArray[np.uint64], int]] = []
    for image in _drop_transparency(pixels):
        found.append(compute_pdq(image))
        if header.orientation != 1:
            found.append(compute_pdq(turn_pixels(image, header.orientation)))
    return np.concatenate([words for words, _ in found]).tobytes(), [quality for _, quality in found]


def _drop_transparency(pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    if pixels.ndim == 2 or pixels.shape[2] == 3:
        yield pixels
        return
    colours, alpha = np.ascontiguousarray(pixels[..., :3]), pixels[..., 3:].astype(np.uint16)
    yield colours
    yield (255 - (255 - colours) * alpha // 255).astype(np.uint8)
