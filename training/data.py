"""The loader: WebDataset shards on disk to batches, in an order that is a function of (seed, epoch) and nothing else.

A shard is read at random: its tar is walked once for the places of its members, and each sample is then two `pread`s.
So the shuffle is over the whole dataset, a resumed job starts at any step at no cost, and ranks and worker threads
(Pillow decodes without the interpreter's lock) only divide the work.
"""

import os
import tarfile
from array import array
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import xxhash

from dataops.errors import ConfigError, ContractError
from training.plan import Plan, Sampling
from training.preprocess import decode_rgb, resize_shortest
from training.randomness import uniforms

PICTURES = frozenset({"jpg", "jpeg", "png", "webp"})
SAMPLED = b'"sampling_probability"'
"""What stands in a sample's JSON where it may say how often the sample is to be seen; another's JSON is not looked into."""


class _Row(msgspec.Struct):
    """What the loader asks of a sample's JSON."""

    sampling_probability: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    uid: str | None = None


@dataclass(frozen=True)
class Skipped:
    """A sample that could not be read, and why."""

    shard: str
    key: str
    reason: str


@dataclass(frozen=True)
class Batch:
    """One rank's part of one step."""

    epoch: int
    samples: np.ndarray
    """Index of each sample in the dataset."""
    pixels_BSS3: np.ndarray
    """uint8."""
    captions: list[str]
    skipped: list[Skipped]


class Dataset:
    """The pairs of some shards, by index; the order is that of the shards and of the members in each.

    Args:
        shards: tar files with members {key}.jpg|jpeg|png|webp and {key}.txt. A {key}.json may say `sampling_probability`,
            and the `uid` by which the pair is drawn (else its key is); other members are ignored.
        image_size: pictures are scaled so that their shorter side has this many pixels.
        cache_bytes: memory for scaled pictures; the first that are read are kept.

    Raises:
        ConfigError: there is no shard, or one cannot be opened.
        ContractError: a shard is not a whole tar file, or there is no pair in any.
    """

    def __init__(self, shards: list[Path], image_size: int, cache_bytes: int):
        self.image_size = image_size
        self.skipped: list[Skipped] = []
        """Samples without a picture or a caption, or with a probability that is none; they have no index."""
        self._shards = shards
        self._files: list[int] = []
        self._keys: list[str] = []
        self._spans = array("q")  # of each sample: shard, then offset and bytes of its picture and of its caption
        self._probabilities, self._identities = array("d"), array("Q")
        self._cache: dict[int, np.ndarray] = {}
        self._cache_left = cache_bytes
        for number, shard in enumerate(shards):
            try:
                self._files.append(os.open(shard, os.O_RDONLY))
                self._walk(number, shard)
            except OSError as error:
                raise ConfigError(f"shard {shard}: {error.strerror or error}") from error
            except tarfile.TarError as error:
                raise ContractError(f"shard {shard} is not a whole tar file: {error}") from error
        if not self._keys:
            raise ContractError(f"no pair of picture and caption in {len(shards)} shards")

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def sampling(self) -> Sampling | None:
        """How often each sample is to be seen; None where each is in every epoch."""
        probabilities = np.array(self._probabilities)
        return Sampling(probabilities, np.array(self._identities)) if (probabilities < 1).any() else None

    def close(self) -> None:
        """Close the shards."""
        while self._files:
            os.close(self._files.pop())

    def captions(self) -> Iterator[str]:
        """Each caption that is UTF-8, in order."""
        for sample in range(len(self)):
            caption = self._caption(sample).decode("utf-8", "replace").strip()
            if caption and "\ufffd" not in caption:
                yield caption

    def load(self, sample: int) -> tuple[np.ndarray, str] | Skipped:
        """The scaled picture (H, W, 3), uint8, with its caption; or why there is none."""
        try:
            caption = self._caption(sample).decode("utf-8").strip()
            if not caption:
                raise ValueError("empty caption")
            pixels = self._cache.get(sample)
            if pixels is None:
                image = decode_rgb(self._picture(sample))
                pixels = np.asarray(resize_shortest(image, self.image_size))
                # Two threads may both find room for the last one: over by a picture, and never wrong.
                if pixels.nbytes <= self._cache_left:
                    self._cache_left -= pixels.nbytes
                    self._cache[sample] = pixels
        except ValueError as error:  # UnicodeDecodeError is one
            return Skipped(self._shards[self._spans[5 * sample]].name, self._keys[sample], str(error))
        return pixels, caption

    def _picture(self, sample: int) -> bytes:
        shard, offset, size, _, _ = self._spans[5 * sample : 5 * sample + 5]
        return self._read(shard, offset, size)

    def _caption(self, sample: int) -> bytes:
        shard, _, _, offset, size = self._spans[5 * sample : 5 * sample + 5]
        return self._read(shard, offset, size)

    def _read(self, shard: int, offset: int, size: int) -> bytes:
        data = os.pread(self._files[shard], size, offset)
        if len(data) != size:
            raise ContractError(
                f"shard {self._shards[shard]} ends before byte {offset + size:,}: it was cut while open"
            )
        return data

    def _walk(self, number: int, shard: Path) -> None:
        members: dict[str, dict[str, tuple[int, int]]] = {}
        end = 0
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                kind = "picture" if extension.lower() in PICTURES else extension.lower()
                members.setdefault(f"{folder}/{stem}" if folder else stem, {})[kind] = (member.offset_data, member.size)
                end = max(end, member.offset_data + member.size)
        if end > shard.stat().st_size:
            raise tarfile.ReadError(f"a member ends at byte {end:,} of {shard.stat().st_size:,}")
        for key, spans in members.items():
            if missing := " and ".join(kind for kind in ("picture", "txt") if kind not in spans):
                self.skipped.append(Skipped(shard.name, key, f"no {missing} member"))
                continue
            try:
                row = self._row(number, spans.get("json", (0, 0)))
            except msgspec.MsgspecError as error:
                self.skipped.append(Skipped(shard.name, key, f"json member: {error}"))
                continue
            self._keys.append(key)
            self._spans.extend((number, *spans["picture"], *spans["txt"]))
            self._probabilities.append(1.0 if row.sampling_probability is None else row.sampling_probability)
            self._identities.append(xxhash.xxh3_64_intdigest((row.uid or key).encode("utf-8", "surrogateescape")))

    def _row(self, shard: int, span: tuple[int, int]) -> _Row:
        data = self._read(shard, *span)
        return msgspec.json.decode(data, type=_Row) if SAMPLED in data else _Row()


def batches(dataset: Dataset, plan: Plan, first_step: int, rank: int, ranks: int) -> Iterator[Batch]:
    """One rank's batches from a step (counted from 1) to the last, read ahead by `workers` threads."""
    steps = range(first_step, plan.total_steps + 1)
    workers = plan.config.workers
    if workers == 0:
        for step in steps:
            epoch, samples = plan.batch(step, rank, ranks)
            yield _collate(dataset, plan, epoch, samples, [dataset.load(int(sample)) for sample in samples])
        return
    ahead: deque[tuple[int, np.ndarray, list[Future[tuple[np.ndarray, str] | Skipped]]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="loader") as pool:
        try:
            for step in steps:
                epoch, samples = plan.batch(step, rank, ranks)
                ahead.append((epoch, samples, [pool.submit(dataset.load, int(sample)) for sample in samples]))
                if len(ahead) > 2:
                    epoch, samples, futures = ahead.popleft()
                    yield _collate(dataset, plan, epoch, samples, [future.result() for future in futures])
            while ahead:
                epoch, samples, futures = ahead.popleft()
                yield _collate(dataset, plan, epoch, samples, [future.result() for future in futures])
        finally:
            pool.shutdown(cancel_futures=True)


def _collate(
    dataset: Dataset, plan: Plan, epoch: int, samples: np.ndarray, loaded: list[tuple[np.ndarray, str] | Skipped]
) -> Batch:
    kept = [i for i, item in enumerate(loaded) if not isinstance(item, Skipped)]
    pairs = [item for item in loaded if not isinstance(item, Skipped)]
    samples = samples[kept]
    places = uniforms("crop", plan.seed, epoch, samples, 2)
    side = dataset.image_size
    pixels_BSS3 = np.empty((len(pairs), side, side, 3), dtype=np.uint8)
    for row, (pixels, _) in enumerate(pairs):
        top, left = (int(u * (extent - side + 1)) for u, extent in zip(places[row], pixels.shape[:2], strict=True))
        pixels_BSS3[row] = pixels[top : top + side, left : left + side]
    captions = _dress([caption for _, caption in pairs], plan, epoch, samples)
    return Batch(epoch, samples, pixels_BSS3, captions, [item for item in loaded if isinstance(item, Skipped)])


def _dress(captions: list[str], plan: Plan, epoch: int, samples: np.ndarray) -> list[str]:
    """Leave words out and put each caption into a prompt, at random."""
    prompts, dropout = plan.config.prompts, plan.config.word_dropout
    if len(prompts) == 1 and not dropout:
        return [prompts[0].format(caption) for caption in captions]
    draws = uniforms("caption", plan.seed, epoch, samples, 64)
    dressed = []
    for caption, u in zip(captions, draws, strict=True):
        words = caption.split()
        kept = [word for i, word in enumerate(words) if u[1 + i % 62] >= dropout] or [words[int(u[63] * len(words))]]
        dressed.append(prompts[int(u[0] * len(prompts))].format(" ".join(kept)))
    return dressed
