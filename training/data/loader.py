"""The loader: WebDataset shards on disk to batches, in an order that is a function of (seed, epoch) and nothing else.

A shard is read at random: the index beside it, or one pass over its headers, gives the offsets of its members, and each
sample is then two `pread`s. So the shuffle is over the whole dataset, a resumed job starts at any step at no cost, and
ranks and worker threads (decoding and scaling release the interpreter's lock) only divide the work.
"""

import tarfile
from array import array
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from math import ceil, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import cv2
import msgspec
import numpy as np
import xxhash

from dataops.errors import ConfigError, ContractError, CorruptPart
from dataops.regular_files import open_regular, read_text
from dataops.shards.foreign_tar import open_foreign_tar
from dataops.shards.tar import Member, list_members, read_index
from training.data import decode
from training.data.keyed_random import draw_uniforms
from training.data.sampling_plan import Plan, Sampling, Windows
from training.data.shard_files import ShardFiles, read_shard_rows

if TYPE_CHECKING:
    from torch import Tensor

IMAGE_EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp"})
PROBABILITY_FIELD = b'"sampling_probability"'
"""Field of a sample's JSON that makes the loader parse it, with the probability that an epoch draws the sample."""
FACES_FIELD = b'"face_bboxes"'
"""Field that makes the loader parse the JSON if faces are to be blurred."""


NO_FACE_DETECTION = "its faces were not looked for"
"""Reason in skipped.json."""
READ_AHEAD = 2
"""Batches in progress while one is in use."""
SAMPLES_PER_TASK = 8
"""Samples that a worker thread loads at once: one alone would cost as much in hand-over as a small image in decoding."""


class _Row(msgspec.Struct):
    """The fields of a sample's JSON that the loader reads."""

    sampling_probability: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    uid: str | None = None
    face_bboxes: list[tuple[float, float, float, float]] | None = None


@dataclass(frozen=True)
class Skipped:
    """A sample that could not be read, and the reason."""

    shard: str
    key: str
    reason: str


@dataclass(frozen=True)
class Batch:
    """One rank's share of one step."""

    epoch: int
    samples: np.ndarray
    """Index of each sample in the dataset."""
    pixels_BSS3: np.ndarray
    """Pixels, uint8."""
    captions: list[str]
    skipped: list[Skipped]
    tokens_BL: "Tensor | None" = None
    """Token ids of the captions; None without a tokenizer."""


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

    Raises:
        ConfigError: there is no shard, or one cannot be opened.
        ContractError: a shard is not a whole tar file, there is no pair in any, or no sample has the field of its
            faces.
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
    ):
        self._blur_faces, self._faces = blur_faces, dict[int, list[tuple[float, float, float, float]]]()
        self.image_size, self.crop_area = image_size, crop_area
        self.skipped: list[Skipped] = []
        """Samples without an image or a caption, or with an invalid probability; they have no index."""
        self.files = ShardFiles(shards, arriving or {})
        self._keys: list[str] = []
        self._spans = array("q")  # of each sample: shard, then offset and bytes of its picture and of its caption
        self._probabilities, self._identities = array("d"), array("Q")
        self._cache: dict[int, np.ndarray] = {}
        self._cache_left = cache_bytes
        for number, shard in enumerate(shards):
            try:
                self._index_shard(number, shard)
            except OSError as error:
                raise ConfigError(f"shard {shard}: {error.strerror or error}") from error
            except tarfile.TarError as error:
                raise ContractError(f"shard {shard} is not a whole tar file: {error}") from error
        if not self._keys and any(skipped.reason == NO_FACE_DETECTION for skipped in self.skipped):
            raise ContractError(
                "train.blur_faces: no sample has face_bboxes; add [curate.scores.faces] and make the dataset again"
            )
        if not self._keys:
            raise ContractError(f"no pair of image and caption in {len(shards)} shards")

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def sampling(self) -> Sampling | None:
        """Probabilities of the samples; None if each is seen in every epoch."""
        probabilities = np.array(self._probabilities)
        return Sampling(probabilities, np.array(self._identities)) if (probabilities < 1).any() else None

    def windows(self, at_once: int) -> Windows | None:
        """Return windows of `at_once` shards; None for 0, all of them."""
        shard_of = np.array(self._spans, np.int64).reshape(-1, 5)[:, 0].copy()
        return Windows(shard_of, len(self.files.paths), at_once) if at_once else None

    def close(self) -> None:
        """Close the shards."""
        self.files.close()

    def captions(self) -> Iterator[str]:
        """Yield each caption that is UTF-8, in order."""
        captions: dict[str, str] = {}
        shard_read = None
        for sample in range(len(self)):
            shard = self._spans[5 * sample]
            if not self.files.arrives(shard):
                caption = self._caption(sample).decode("utf-8", "replace")
            else:
                if shard_read != shard:
                    rows = read_shard_rows(self.files.paths[shard], ["caption"])
                    shard_read, captions = shard, {row["key"]: row["caption"] for row in rows}
                caption = captions[self._keys[sample]]
            if (caption := caption.strip()) and "\ufffd" not in caption:
                yield caption

    def load(self, sample: int) -> tuple[np.ndarray, str] | Skipped:
        """Return a decoded image (H, W, 3), uint8, to cut a crop from, with its caption; or why there is none."""
        try:
            caption = self._caption(sample).decode("utf-8").strip()
            if not caption:
                raise ValueError("empty caption")
            pixels = self._cache.get(sample)
            if pixels is None:
                pixels = decode.decode_image(self._image(sample), self._side_to_keep)
                if faces := self._faces.get(sample):
                    pixels = decode.blur_faces(pixels, faces)
                if self.crop_area is None:
                    pixels = decode.resize_shortest_side(pixels, self.image_size)
                # Two threads may both find room for the last one, and exceed the limit by an image.
                if pixels.nbytes <= self._cache_left:
                    self._cache_left -= pixels.nbytes
                    self._cache[sample] = pixels
        except ValueError as error:  # UnicodeDecodeError is one
            return Skipped(self.files.paths[self._spans[5 * sample]].name, self._keys[sample], str(error))
        return pixels, caption

    @property
    def _side_to_keep(self) -> int:
        """Pixels of a decoded image's shorter side for which the smallest crop is no smaller than the model's input."""
        if self.crop_area is None:
            return self.image_size
        return ceil(self.image_size / sqrt(self.crop_area[0] * decode.ASPECT[0]))

    def _image(self, sample: int) -> bytes:
        shard, offset, size, _, _ = self._spans[5 * sample : 5 * sample + 5]
        return self.files.read(shard, offset, size)

    def _caption(self, sample: int) -> bytes:
        shard, _, _, offset, size = self._spans[5 * sample : 5 * sample + 5]
        return self.files.read(shard, offset, size)

    def _index_shard(self, number: int, shard: Path) -> None:
        members: dict[str, dict[str, tuple[int, int]]] = {}
        for key, extension, offset, size in _locate_members(shard, self.files.size(number)):
            kind = "picture" if extension.lower() in IMAGE_EXTENSIONS else extension.lower()
            members.setdefault(key, {})[kind] = (offset, size)
        row_of = self._read_arriving_rows(number, members) if self.files.arrives(number) else None
        for key, spans in members.items():
            if missing := " and ".join(kind for kind in ("picture", "txt") if kind not in spans):
                self.skipped.append(Skipped(shard.name, key, f"no {missing} member"))
                continue
            try:
                row = self._row(number, spans.get("json", (0, 0))) if row_of is None else row_of[key]
            except msgspec.MsgspecError as error:
                self.skipped.append(Skipped(shard.name, key, f"json member: {error}"))
                continue
            if self._blur_faces:
                if row.face_bboxes is None:
                    self.skipped.append(Skipped(shard.name, key, NO_FACE_DETECTION))
                    continue
                if row.face_bboxes:
                    self._faces[len(self._keys)] = row.face_bboxes
            self._keys.append(key)
            self._spans.extend((number, *spans["picture"], *spans["txt"]))
            self._probabilities.append(1.0 if row.sampling_probability is None else row.sampling_probability)
            self._identities.append(xxhash.xxh3_64_intdigest((row.uid or key).encode("utf-8", "surrogateescape")))

    def _row(self, shard: int, span: tuple[int, int]) -> _Row:
        data = self.files.read(shard, *span)
        needed = PROBABILITY_FIELD in data or (self._blur_faces and FACES_FIELD in data)
        return msgspec.json.decode(data, type=_Row) if needed else _Row()

    def _read_arriving_rows(self, shard: int, keys: Collection[str]) -> dict[str, _Row]:
        """Return what the JSON members of an arriving shard hold, from the Parquet beside it."""
        path = self.files.paths[shard]
        try:
            columns = ["uid", "sampling_probability", *(["face_bboxes"] if self._blur_faces else [])]
            rows = {r.pop("key"): msgspec.convert(r, _Row) for r in read_shard_rows(path, columns)}
        except msgspec.ValidationError as error:
            raise ContractError(f"{path.with_name(f'part-{path.stem}.parquet')}: {error}") from error
        if rows.keys() != set(keys):
            raise ContractError(f"shard {path}: its .idx and its part-{path.stem}.parquet list different samples")
        return rows


def _locate_members(shard: Path, end: int) -> list[Member]:
    """Return the span of each member: from the index beside the shard of `end` bytes, else from its headers."""
    if (index := shard.with_suffix(".idx")).exists():
        found = [member for sample in read_index(read_text(index), str(index)) for member in sample.values()]
    else:
        try:
            with open_regular(shard) as file:
                found = list_members(file, str(shard))
        except CorruptPart:  # folders, long names or links, which other tools write; or damage, which tarfile reports
            found = _locate_with_tarfile(shard)
    if (last := max((member.offset + member.size for member in found), default=0)) > end:
        raise tarfile.ReadError(f"a member ends at byte {last:,} of {end:,}")
    return found


def _locate_with_tarfile(shard: Path) -> list[Member]:
    found = []
    with open_regular(shard) as file, open_foreign_tar(file, "r:") as tar:
        for member in tar:
            if member.isfile():
                folder, _, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                found.append(Member(key, extension, member.offset_data, member.size))
    return found


@dataclass
class _PartialBatch:
    """A rank's share of a step, which several threads fill."""

    dataset: Dataset
    plan: Plan
    tokenize: "Callable[[list[str]], Tensor] | None"
    epoch: int
    samples: np.ndarray
    captions: dict[int, str] = field(default_factory=dict)  # by row
    skipped: dict[int, Skipped] = field(default_factory=dict)  # by row

    def __post_init__(self) -> None:
        side, count = self.dataset.image_size, len(self.samples)
        self.pixels_BSS3 = np.empty((count, side, side, 3), dtype=np.uint8)
        self.draws = draw_uniforms("crop", self.plan.seed, self.epoch, self.samples, decode.DRAWS)

    def fill(self, rows: range) -> None:
        """Load these rows."""
        area = self.dataset.crop_area
        for row in rows:
            loaded = self.dataset.load(int(self.samples[row]))
            if isinstance(loaded, Skipped):
                self.skipped[row] = loaded
                continue
            pixels, self.captions[row] = loaded
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
        return Batch(self.epoch, samples, pixels, captions, skipped, tokens_BL)


def load_batches(
    dataset: Dataset,
    plan: Plan,
    first_step: int,
    rank: int,
    ranks: int,
    tokenize: "Callable[[list[str]], Tensor] | None" = None,
) -> Iterator[Batch]:
    """Yield one rank's batches from a step (from 1) to the last; `workers` threads load READ_AHEAD of them ahead."""
    steps = range(first_step, plan.total_steps + 1)
    fillings = (_PartialBatch(dataset, plan, tokenize, *plan.batch(step, rank, ranks)) for step in steps)
    if (workers := plan.config.workers) == 0:
        for filling in fillings:
            filling.fill(range(len(filling.samples)))
            yield filling.collect()
        return
    cv2.setNumThreads(0)  # these threads are the parallelism
    ahead: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="loader") as pool:
        try:
            for filling in fillings:
                rows = range(len(filling.samples))
                tasks = [pool.submit(filling.fill, rows[i : i + SAMPLES_PER_TASK]) for i in rows[::SAMPLES_PER_TASK]]
                ahead.append(pool.submit(filling.collect, tasks))  # after its tasks
                if len(ahead) > READ_AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _format_captions(captions: list[str], plan: Plan, epoch: int, samples: np.ndarray) -> list[str]:
    """Drop words at random, and put each caption into a prompt drawn at random."""
    prompts, dropout = plan.config.prompts, plan.config.word_dropout
    if len(prompts) == 1 and not dropout:
        return [prompts[0].format(caption) for caption in captions]
    draws = draw_uniforms("caption", plan.seed, epoch, samples, 64)
    formatted = []
    for caption, u in zip(captions, draws, strict=True):
        words = caption.split()
        kept = [word for i, word in enumerate(words) if u[1 + i % 62] >= dropout] or [words[int(u[63] * len(words))]]
        formatted.append(prompts[int(u[0] * len(prompts))].format(" ".join(kept)))
    return formatted
