"""The loader: WebDataset shards on disk to batches, in an order that is a function of (seed, epoch) and nothing else.

A shard is read at random: the index beside it, or one pass over its headers, gives the offsets of its members, and each
sample is then two `pread`s. So the shuffle is over the whole dataset, a resumed job starts at any step at no cost, and
ranks and worker threads (decoding and scaling release the interpreter's lock) only divide the work.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain
from math import ceil, sqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import cv2
import msgspec
import numpy as np
import xxhash

from dataops.ahead import take_results
from dataops.schema import CAPTIONS
from training.data import decode
from training.data.keyed_random import draw_uniforms
from training.data.sample_index import SampleIndex, build_index, fingerprint_shards, open_index
from training.data.sampling_plan import Plan
from training.data.shard_files import ShardFiles, read_shard_rows
from training.data.shard_index import Skipped

CAPTIONS_FIELD = f'"{CAPTIONS.name}"'.encode()
"""Field of a sample's JSON without which its only caption is that of its `.txt`."""
DRAWS = 3
"""Numbers that choose the caption of a sample, and one of several features."""


class _Caption(msgspec.Struct):
    caption: str
    caption_source: str | None = None


class CaptionRow(msgspec.Struct):
    """The fields of a sample's JSON that hold its captions."""

    caption_source: str | None = None
    captions: list[_Caption] | None = None


_decode_captions = msgspec.json.Decoder(CaptionRow).decode  # made before there are threads: see shard_index.py


def read_captions(row: bytes | dict[str, object]) -> CaptionRow:
    """Return the captions of a sample from its JSON, or from its row in the Parquet beside the shard.

    Raises: ValueError if they are not valid.
    """
    if isinstance(row, bytes):
        return _decode_captions(row) if CAPTIONS_FIELD in row else CaptionRow()
    return msgspec.convert(row, CaptionRow)


def list_captions(own: str, row: CaptionRow, weights: Mapping[object, float]) -> dict[str, list[str]]:
    """Return the captions of a sample that may be chosen, by kind in alphabetical order.

    Args:
        own: caption in the sample's `.txt`.
        weights: by kind; a kind that is not listed has 1. If all kinds of the sample have 0, its own caption is left.
    """
    found: dict[str, list[str]] = {row.caption_source or "": [own]}
    for one in row.captions or ():
        if text := one.caption.strip():
            found.setdefault(one.caption_source or "", []).append(text)
    chosen = {kind: texts for kind, texts in sorted(found.items()) if weights.get(kind, 1) > 0}
    return chosen or {row.caption_source or "": [own]}


def choose_caption(own: str, row: CaptionRow, weights: Mapping[object, float], draws: tuple[float, float]) -> str:
    """Return the caption for one visit.

    Args:
        draws: numbers in [0, 1), for the kind and for the caption.
    """
    found = list_captions(own, row, weights)
    kinds = list(found)
    ends = list(accumulate(weights.get(kind, 1) or 1 for kind in kinds))
    texts = found[kinds[min(bisect_right(ends, draws[0] * ends[-1]), len(kinds) - 1)]]
    return texts[int(draws[1] * len(texts))]


def hash_image(data: bytes) -> int:
    """Return a hash of an image file, as a signed number of 64 bits: torch compares no others."""
    return _sign(xxhash.xxh3_64_intdigest(data))


def hash_caption(caption: str) -> int:
    """Return a hash of a caption, to which neither case nor the number of spaces matters."""
    return _sign(xxhash.xxh3_64_intdigest(" ".join(caption.casefold().split()).encode()))


def _sign(hashed: int) -> int:
    return int(np.uint64(hashed).astype(np.int64))


if TYPE_CHECKING:
    from torch import Tensor

READ_AHEAD = 2
"""Batches in progress while one is in use."""
SAMPLES_PER_TASK = 8
"""Samples that a worker thread loads at once: one alone would cost as much in hand-over as a small image in decoding."""


@dataclass(frozen=True)
class Batch:
    """One rank's share of one step."""

    step: int
    """From 1."""
    epoch: int
    """From 0."""
    samples: np.ndarray
    """Index of each sample in the dataset, as Plan.batch returns it."""
    pixels_BSS3: np.ndarray
    """Pixels, uint8."""
    captions: list[str]
    skipped: list[Skipped]
    tokens_BL: "Tensor | None" = None
    """Token ids of the captions; None without a tokenizer."""
    identities_B2: np.ndarray | None = None
    """Hashes of images and captions, int64; None where no loss compares them."""
    inputs: Any = None
    """The result of `prepare`; None without it."""


class Dataset:
    """The pairs of some shards, by index, in the order of the shards and of the members in each.

    Args:
        shards: tar files with members {key}.jpg|jpeg|png|webp and {key}.txt. A {key}.json may hold
            `sampling_probability`, and the `uid` that the draw hashes (else the key); other members are ignored.
        image_size: side of the model's input, in pixels.
        cache_bytes: memory for decoded images; the first that are read are kept.
        crop_area: range of the share of an image's area that a random crop covers, as in RandomResizedCrop; None:
            images are scaled so that their shorter side has `image_size` pixels, and a random square is cut.
        arriving: see training/data/shard_files.py; empty: all shards are here.
        blur_faces: blur each image at its `face_bboxes`. A sample without that field is left out; an empty list is no
            face.
        caption_weights: weights of the kinds of captions, one of which is chosen at each visit
            (training/data/loader.py); None: the caption is that of the `.txt`. The index needs the rows.
        index: the index of these shards; None: it is built in a temporary folder.

    Raises: as build_index, if it is built.
    """

    def __init__(
        self,
        shards: list[Path],
        image_size: int,
        cache_bytes: int,
        crop_area: tuple[float, float] | None = None,
        arriving: Mapping[str, int] | None = None,
        *,
        blur_faces: bool = False,
        caption_weights: Mapping[Any, float] | None = None,
        index: SampleIndex | None = None,
    ):
        self.image_size, self.crop_area, self.caption_weights = image_size, crop_area, caption_weights
        self.files = ShardFiles(shards, arriving or {})
        options = {"blur_faces": blur_faces, "with_rows": caption_weights is not None}
        self.index = _build_temporary_index(self.files, options) if index is None else index
        self.image_features: Any = None  # of a hook: `width`, and `read(shard, sample, draw)` in place of an image
        self.shards_at_start = len(shards)  # first shards, whose pairs decide the first weights together
        self._cache: dict[int, np.ndarray] = {}
        self._image_hashes: dict[int, int] = {}  # of images in the cache
        self._cache_left = cache_bytes

    def __len__(self) -> int:
        return len(self.index)

    @property
    def skipped(self) -> list[Skipped]:
        """Samples without an image or a caption, or with an invalid probability; they have no index."""
        return self.index.skipped

    def close(self) -> None:
        """Close the shards."""
        self.files.close()

    def captions(self, shards: Iterable[int] | None = None, *, with_held: bool = False) -> Iterator[str]:
        """Yield each caption of some shards that is UTF-8, in order, without those of held-out samples."""
        for shard in range(len(self.files.paths)) if shards is None else shards:
            path = self.files.paths[shard]
            of_shard = self.index.samples_of(shard)
            samples = of_shard if with_held else self.index.without_held(of_shard)
            if self.files.arrives(shard):
                further = ["caption_source", CAPTIONS.name] if self.caption_weights is not None else []
                row_of = {row["key"]: row for row in read_shard_rows(path, ["caption"], further)}
                rows = (row_of[self.index.key(sample)] for sample in samples)
                captions = (text for row in rows for text in self._texts(row["caption"], row))
            else:
                captions = (text for sample in samples for text in self._texts_here(shard, sample))
            for caption in captions:
                if (stripped := caption.strip()) and "\ufffd" not in stripped:
                    yield stripped

    def _texts_here(self, shard: int, sample: int) -> Iterable[str]:
        own = self._caption(shard, sample).decode("utf-8", "replace")
        return (own,) if self.caption_weights is None else self._texts(own, self._row(shard, sample))

    def _texts(self, own: str, row: bytes | dict[str, object]) -> Iterable[str]:
        """Return the captions of a sample that may be chosen."""
        if self.caption_weights is None:
            return (own,)
        try:
            found = list_captions(own, read_captions(row), self.caption_weights)
        except ValueError:  # the sample is skipped when it is loaded
            return ()
        return chain.from_iterable(found.values())

    def load(self, sample: int, draws: Sequence[float] = (0.0, 0.0, 0.0)) -> tuple[np.ndarray, str] | Skipped:
        """Return a decoded image (H, W, 3), uint8, to cut a crop from, with a caption; or why there is none.

        With `image_features`, return the feature (W,) of the image in its place.

        Args:
            draws: numbers in [0, 1) that choose the caption, if a sample has several, and one of several features.
        """
        shard = self.index.shard_of(sample)
        try:
            caption = self._caption(shard, sample).decode("utf-8").strip()
            if not caption:
                raise ValueError("empty caption")
            if self.caption_weights is not None:
                row = read_captions(self._row(shard, sample))
                caption = choose_caption(caption, row, self.caption_weights, (draws[0], draws[1]))
            if self.image_features is not None:
                return self.image_features.read(shard, sample, draws[2]), caption
            pixels = self._cache.get(sample)
            if pixels is None:
                pixels = decode.decode_image(self._image(sample), self._side_to_keep)
                if faces := self.index.faces(sample):
                    pixels = decode.blur_faces(pixels, faces)
                if self.crop_area is None:
                    pixels = decode.resize_shortest_side(pixels, self.image_size)
                # Two threads may both find room for the last one, and exceed the limit by an image.
                if pixels.nbytes <= self._cache_left:
                    self._cache_left -= pixels.nbytes
                    self._cache[sample] = pixels
        except ValueError as error:  # UnicodeDecodeError is one
            return Skipped(self.files.label(shard), self.index.key(sample), str(error))
        return pixels, caption

    def image_hash(self, sample: int) -> int:
        """Return the hash of an image file that could be loaded."""
        if (known := self._image_hashes.get(sample)) is not None:
            return known
        hashed = hash_image(self._image(sample))
        if sample in self._cache:
            self._image_hashes[sample] = hashed
        return hashed

    def load_plain(self, sample: int) -> tuple[np.ndarray, str] | Skipped:
        """Return the square at the centre of an image, or its feature, with its caption; or why there is none."""
        loaded = self.load(sample)
        if isinstance(loaded, Skipped) or loaded[0].ndim == 1:
            return loaded
        return self._cut_square(loaded[0]), loaded[1]

    def load_square(self, sample: int) -> np.ndarray:
        """Return the square at the centre of an image, uint8 (S, S, 3).

        Raises: ValueError with the reason if the image cannot be read.
        """
        pixels = decode.decode_image(self._image(sample), self.image_size)
        if faces := self.index.faces(sample):
            pixels = decode.blur_faces(pixels, faces)
        return self._cut_square(pixels)

    def _cut_square(self, pixels: np.ndarray) -> np.ndarray:
        side = self.image_size
        pixels = decode.resize_shortest_side(pixels, side)
        top, left = (round((extent - side) / 2) for extent in pixels.shape[:2])
        return pixels[top : top + side, left : left + side]

    @property
    def _side_to_keep(self) -> int:
        """Pixels of a decoded image's shorter side for which the smallest crop is no smaller than the model's input."""
        if self.crop_area is None:
            return self.image_size
        return ceil(self.image_size / sqrt(self.crop_area[0] * decode.ASPECT[0]))

    def _image(self, sample: int) -> bytes:
        return self.files.read(self.index.shard_of(sample), *self.index.image_span(sample))

    def _row(self, shard: int, sample: int) -> bytes:
        offset, size = self.index.row_span(sample)
        return self.files.read(shard, offset, size) if size else b"{}"

    def _caption(self, shard: int, sample: int) -> bytes:
        return self.files.read(shard, *self.index.caption_span(sample))


def _build_temporary_index(files: ShardFiles, options: Mapping[str, bool]) -> SampleIndex:
    """Build an index whose files have no name any more: they are freed when it is not used any more."""
    fingerprint = fingerprint_shards(files, {}, **options)
    with TemporaryDirectory(prefix="pairmill-index-") as folder:
        build_index(Path(folder, "index"), files, fingerprint, **options, workers=0)
        index = open_index(Path(folder, "index"), fingerprint)
    assert index is not None
    return index


@dataclass
class _PartialBatch:
    """A rank's share of a step, which several threads fill."""

    dataset: Dataset
    plan: Plan
    tokenize: "Callable[[list[str]], Tensor] | None"
    prepare: Callable[[Batch], Any] | None
    step: int
    epoch: int
    samples: np.ndarray
    captions: dict[int, str] = field(default_factory=dict)  # by row
    identities: dict[int, tuple[int, int]] = field(default_factory=dict)  # by row
    skipped: dict[int, Skipped] = field(default_factory=dict)  # by row

    def __post_init__(self) -> None:
        side, count = self.dataset.image_size, len(self.samples)
        features = self.dataset.image_features
        self.pixels_BSS3 = (
            np.empty((count, side, side, 3), dtype=np.uint8)
            if features is None
            else np.empty((count, features.width), dtype=np.float32)
        )
        self.draws = draw_uniforms("crop", self.plan.seed, self.epoch, self.samples, decode.DRAWS)
        self.choices = draw_uniforms("choice", self.plan.seed, self.epoch, self.samples, DRAWS)

    def fill(self, rows: range) -> None:
        """Load these rows."""
        area = self.dataset.crop_area
        for row in rows:
            sample = int(self.samples[row]) % self.plan.samples
            if self.plan.places is not None and (sample := int(self.plan.places[sample])) < 0:
                continue
            loaded = self.dataset.load(sample, self.choices[row])
            if isinstance(loaded, Skipped):
                self.skipped[row] = loaded
                continue
            pixels, self.captions[row] = loaded
            if self.plan.config.multi_positive != "off":
                image = self.dataset.image_hash(sample)
                self.identities[row] = image, hash_caption(self.captions[row])
            if pixels.ndim == 1:  # a feature
                self.pixels_BSS3[row] = pixels
                continue
            height, width = pixels.shape[:2]
            draws = self.draws[row]
            crop = (
                decode.draw_square(height, width, draws)
                if area is None
                else decode.draw_crop(height, width, area, draws)
            )
            decode.write_crop(pixels, crop, self.pixels_BSS3[row])

    def collect(self, fillings: Iterable[Future[None]] = ()) -> Batch:
        """Return the batch, once all rows are filled."""
        for filling in fillings:
            filling.result()
        kept = sorted(self.captions)
        pixels = self.pixels_BSS3 if len(kept) == len(self.samples) else self.pixels_BSS3[kept]
        samples = self.samples[kept]
        captions = _format_captions([self.captions[row] for row in kept], self.plan, self.epoch, samples)
        tokens_BL = self.tokenize(captions) if self.tokenize else None
        skipped = [self.skipped[row] for row in sorted(self.skipped)]
        identities_B2 = np.array([self.identities[row] for row in kept], np.int64) if self.identities else None
        batch = Batch(self.step, self.epoch, samples, pixels, captions, skipped, tokens_BL, identities_B2)
        return replace(batch, inputs=self.prepare(batch)) if self.prepare else batch


def load_batches(
    dataset: Dataset,
    plan: Plan,
    first_step: int,
    rank: int,
    ranks: int,
    tokenize: "Callable[[list[str]], Tensor] | None" = None,
    prepare: Callable[[Batch], Any] | None = None,
) -> Iterator[Batch]:
    """Yield one rank's batches from a step (from 1) to the last; threads load READ_AHEAD of them ahead.

    Args:
        tokenize, prepare: called in these threads for each batch.
    """
    fillings = (
        _PartialBatch(dataset, plan, tokenize, prepare, step, *plan.batch(step, rank, ranks))
        for step in range(first_step, plan.total_steps + 1)
    )
    if (workers := plan.config.loader_threads) == 0:
        for filling in fillings:
            filling.fill(range(len(filling.samples)))
            yield filling.collect()
        return
    cv2.setNumThreads(0)  # these threads are the parallelism

    def submit(filling: _PartialBatch) -> Future[Batch]:
        rows = range(len(filling.samples))
        tasks = [pool.submit(filling.fill, rows[i : i + SAMPLES_PER_TASK]) for i in rows[::SAMPLES_PER_TASK]]
        return pool.submit(filling.collect, tasks)  # after its tasks

    with ThreadPoolExecutor(workers, thread_name_prefix="loader") as pool:
        yield from take_results(map(submit, fillings), READ_AHEAD, pool)


def _format_captions(captions: list[str], plan: Plan, epoch: int, samples: np.ndarray) -> list[str]:
    """Drop words at random, and put each caption into a prompt drawn at random."""
    prompts, dropout = plan.config.prompts, plan.config.word_dropout
    if len(prompts) == 1 and not dropout:
        return [prompts[0].replace("{}", caption) for caption in captions]
    draws = draw_uniforms("caption", plan.seed, epoch, samples, 64)
    formatted = []
    for caption, u in zip(captions, draws, strict=True):
        words = caption.split()
        kept = [word for i, word in enumerate(words) if u[1 + i % 62] >= dropout] or [words[int(u[63] * len(words))]]
        formatted.append(prompts[int(u[0] * len(prompts))].replace("{}", " ".join(kept)))
    return formatted
