"""The samples of one shard: where their members lie, and the fields of their rows that decide what training reads.

The index beside a shard, or one pass over its headers, gives the offsets of its members. Indexes
and rows that pack wrote are parsed as columns; all others, and what is wrong in them, by general
code that a test compares with the columns.
"""

import io
import tarfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from pyarrow import csv

from dataops.errors import ConfigError, ContractError, CorruptPart
from dataops.parquet import read_parquet
from dataops.regular_files import check_regular, open_regular, read_bytes
from dataops.shards.foreign_tar import open_foreign_tar
from dataops.shards.tar import INDEX_VERSION, MAX_PADDING, Member, is_end, list_members, read_index
from training.data.shard_files import ShardFiles, read_shard_rows, rows_of_shard

IMAGE_EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp"})
PROBABILITY_FIELD = b'"sampling_probability"'
"""Field of a sample's JSON that makes the loader parse it, with the probability that an epoch draws the sample."""
FACES_FIELD = b'"face_bboxes"'
"""Field that makes the loader parse the JSON if faces are to be blurred."""
NO_FACE_DETECTION = "its faces were not looked for"
"""Reason in skipped.json."""
SPAN = np.dtype([("image", "<u8"), ("image_bytes", "<u4"), ("caption", "<u8"), ("caption_bytes", "<u4")])
"""Offset and size of a sample's image and of its caption in their shard."""
ROW_SPAN = np.dtype([("row", "<u8"), ("row_bytes", "<u4")])
"""Offset and size of a sample's JSON in its shard; 0 and 0 if it has none."""
LINK = np.dtype([("sample", "<u8"), ("hash", "<u8")])
"""A hash of what makes two samples alike: the bytes of the image, its perceptual hash, its cluster, or a caption."""
MAX_BYTES = 2**32 - 1
FEW = 100
"""Number of samples of a shard below which general code takes less time than columns do."""
_PLAIN = bytes(sorted(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._- \n"))

Box = tuple[float, float, float, float]
Spans = dict[str, tuple[np.ndarray, np.ndarray]]
"""Offsets and sizes of the members of each kind."""


class Row(msgspec.Struct):
    """The fields of a sample's JSON that the loader reads."""

    sampling_probability: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    uid: str | None = None
    face_bboxes: list[Box] | None = None


class _Caption(msgspec.Struct):
    caption: str


class _Alike(msgspec.Struct):
    """The fields of a sample's row that make it like another."""

    cluster: str | None = None
    phash: str | None = None
    sha256: str | None = None
    captions: list[_Caption] | None = None


# Made before there are threads: two threads in which msgspec sees a type for the first time may crash.
_decode_row = msgspec.json.Decoder(Row).decode
_decode_alike = msgspec.json.Decoder(_Alike).decode


@dataclass(frozen=True)
class Skipped:
    """A sample that could not be read, and the reason."""

    shard: str
    key: str
    reason: str


@dataclass
class ShardSamples:
    """The samples of one shard, in its order."""

    keys: list[str]
    spans: np.ndarray
    """(samples,) of SPAN."""
    probabilities: np.ndarray
    """(samples,) float64."""
    identities: np.ndarray
    """(samples,) uint64, hashes of the uids; 0 where the probability is 1."""
    faces: list[list[Box]] | None
    """Boxes to blur in each image; None if none is to be blurred."""
    skipped: list[Skipped]
    """Samples without an image or a caption, or with an invalid probability."""
    row_spans: np.ndarray
    """(samples,) of ROW_SPAN."""
    links: np.ndarray | None = None
    """(links,) of LINK, with the samples' numbers in the shard; None without a hold-out."""
    held: np.ndarray | None = None
    """(held,) of LINK: the samples that are not trained on, and the number below the share by which they were chosen."""


def index_shard(
    files: ShardFiles, number: int, *, blur_faces: bool, holdout: float = 0.0, few: int = FEW
) -> ShardSamples:
    """Return the samples of a shard.

    Args:
        holdout: share of the samples that are held out.
        few: number of samples, at least 1, below which general code reads the shard.

    Raises:
        ConfigError: the shard cannot be opened.
        ContractError: it is not a whole tar file, or its rows do not fit its index.
    """
    path = files.paths[number]
    try:
        index = _read_index(path)
        found = None if blur_faces else _index_columns(files, number, index, few)
        found = found or _index_any(files, number, index, blur_faces)
        if holdout:
            _hold_out(files, number, found, holdout)
        return found
    except OSError as error:
        raise ConfigError(f"shard {path}: {error.strerror or error}") from error
    except tarfile.TarError as error:
        raise ContractError(f"shard {path} is not a whole tar file: {error}; copy or make it again") from error


# Shards that pack wrote -----------------------------------------------------------------------------------------------


def _read_index(shard: Path) -> bytes | None:
    """Return the index beside a shard, if there is one."""
    try:
        return read_bytes(shard.with_suffix(".idx"))
    except FileNotFoundError:
        return None


def _index_columns(files: ShardFiles, number: int, index: bytes | None, few: int) -> ShardSamples | None:
    """Return the samples of a shard with an index in which each sample has the same members; None for any other."""
    path = files.paths[number]
    found = _parse_plain_index(index or b"", few)
    if found is None:
        return None
    keys, spans = found
    _check_spans(spans, files.size(number))
    if files.arrives(number):
        rows = _read_row_columns(path, keys)
    else:
        rows = _read_row_members(files, number, spans.get("json"), len(keys))
    if rows is None:
        return None
    names, identities = keys.to_pylist(), np.zeros(len(keys), np.uint64)
    for sample, uid in rows.uids.items():
        identities[sample] = hash_identity(uid, names[sample])
    joined, row_spans = _join_spans(spans), _join_row_spans(spans.get("json"), len(names))
    if not files.arrives(number):  # else its sha256 was compared
        ends = [int((offsets + sizes).max(initial=0)) for offsets, sizes in spans.values()]
        _check_index(files, number, max(ends), sum(len(offsets) for offsets, _ in spans.values()))
    kept = [sample for sample in range(len(names)) if sample not in rows.skipped]
    skipped = [Skipped(files.label(number), names[sample], reason) for sample, reason in rows.skipped.items()]
    columns = (joined[kept], rows.probabilities[kept], identities[kept])
    return ShardSamples([names[sample] for sample in kept], *columns, None, skipped, row_spans[kept])


@dataclass
class _Rows:
    """What the rows of a shard's samples hold."""

    probabilities: np.ndarray
    uids: dict[int, str | None]
    """By sample, where the probability is less than 1."""
    skipped: dict[int, str]
    """Reasons by sample."""


def _parse_plain_index(data: bytes, few: int) -> tuple[pa.Array, Spans] | None:
    """Return the keys and the members of an index whose lines name the same extensions; None for any other file."""
    count, first = data.count(b"\n") - 1, data.find(b"\n") + 1
    fields = data[first : data.find(b"\n", first)].split(b" ")
    if (
        not data.startswith(f"{INDEX_VERSION} {count}\n".encode())
        or not data.endswith(b"\n")
        or count < few
        or data.translate(None, _PLAIN)
        or len(fields) % 4
    ):
        return None
    names = [
        f"{field}{number}" for number in range(len(fields) // 4) for field in ("extension", "offset", "size", "name")
    ]
    types = {name: pa.int64() if name[0] in "os" else pa.string() for name in names}
    try:
        table = csv.read_csv(
            pa.BufferReader(data),
            csv.ReadOptions(use_threads=False, block_size=len(data) + 1, skip_rows=1, column_names=names),
            csv.ParseOptions(delimiter=" ", quote_char=False, double_quote=False, escape_char=False),
            csv.ConvertOptions(column_types=types),
        )
    except pa.ArrowInvalid:
        return None
    if table.num_rows != count or any(column.null_count for column in table.columns):
        return None
    keys: pa.Array | None = None
    spans: Spans = {}
    for number in range(len(fields) // 4):
        extension, offset, size, name = (
            table[f"{field}{number}"].combine_chunks() for field in ("extension", "offset", "size", "name")
        )
        ending = extension[0].as_py()
        own_keys = pc.utf8_slice_codeunits(name, 0, -len(ending) - 1)  # pyright: ignore[reportAttributeAccessIssue]
        kind = _kind(ending)
        is_plain = (
            ending
            and kind not in spans
            and extension.value_counts().to_pylist() == [{"values": ending, "counts": count}]
            and name.equals(pc.binary_join_element_wise(own_keys, ending, "."))  # pyright: ignore[reportAttributeAccessIssue]
            and (keys is None or own_keys.equals(keys))
        )
        if not is_plain:
            return None
        keys = own_keys
        spans[kind] = (offset.to_numpy(), size.to_numpy())
    is_whole = {"image", "txt"} <= spans.keys() and keys is not None
    if not is_whole or pc.count_distinct(keys).as_py() != count or pc.any(pc.match_substring(keys, ".")).as_py():  # pyright: ignore[reportAttributeAccessIssue]
        return None
    return keys, spans


def _read_row_columns(shard: Path, keys: pa.Array) -> _Rows | None:
    """Read the rows of an arriving shard; None if its Parquet is not as pack writes it."""
    path, columns = rows_of_shard(shard), ["key", "uid", "sampling_probability"]
    try:
        check_regular(path)
        table = read_parquet(path, str(path), columns, use_threads=False)
        key, uid = (table[name].combine_chunks().cast(pa.string()) for name in ("key", "uid"))
        probability = pc.fill_null(table["sampling_probability"].cast(pa.float64()), 1.0)
    except (OSError, KeyError, pa.ArrowException, CorruptPart):
        return None
    probabilities = probability.to_numpy()
    if not key.equals(keys) or not ((probabilities >= 0) & (probabilities <= 1)).all():
        return None
    uncertain = np.flatnonzero(probabilities < 1)
    uids = dict(zip(uncertain.tolist(), uid.take(pa.array(uncertain)).to_pylist(), strict=True))
    return _Rows(probabilities, uids, {})


def _read_row_members(files: ShardFiles, number: int, spans: tuple[np.ndarray, np.ndarray] | None, count: int) -> _Rows:
    """Read the rows of a shard that is here: its JSON members."""
    rows = _Rows(np.ones(count), {}, {})
    for sample, span in enumerate(zip(spans[0].tolist(), spans[1].tolist(), strict=True) if spans else ()):
        data = files.read(number, *span)
        if PROBABILITY_FIELD not in data:
            continue
        try:
            row = _decode_row(data)
        except msgspec.MsgspecError as error:
            rows.skipped[sample] = f"json member: {error}"
            continue
        if row.sampling_probability is not None and row.sampling_probability < 1:
            rows.probabilities[sample], rows.uids[sample] = row.sampling_probability, row.uid
    return rows


# Any shard ------------------------------------------------------------------------------------------------------------


def _index_any(files: ShardFiles, number: int, index: bytes | None, blur_faces: bool) -> ShardSamples:
    path = files.paths[number]
    members: dict[str, dict[str, tuple[int, int]]] = {}
    for key, extension, offset, size in _locate_members(path, index):
        members.setdefault(key, {})[_kind(extension)] = (offset, size)
    every = [span for spans in members.values() for span in spans.values()]
    _check_spans({"any": _to_columns(every, object)}, files.size(number))
    if index is not None and not files.arrives(number):
        _check_index(files, number, max(map(sum, every), default=0), len(every))
    row_of = _read_arriving_rows(path, members, blur_faces) if files.arrives(number) else None
    keys, spans_of, rows, skipped = list[str](), list[dict[str, tuple[int, int]]](), list[Row](), list[Skipped]()
    for key, spans in members.items():
        if missing := " and ".join(name for kind, name in (("image", "picture"), ("txt", "txt")) if kind not in spans):
            skipped.append(Skipped(files.label(number), key, f"no {missing} member"))
            continue
        try:
            row = _read_row(files, number, spans.get("json", (0, 0)), blur_faces) if row_of is None else row_of[key]
        except msgspec.MsgspecError as error:
            skipped.append(Skipped(files.label(number), key, f"json member: {error}"))
            continue
        if blur_faces and row.face_bboxes is None:
            skipped.append(Skipped(files.label(number), key, NO_FACE_DETECTION))
            continue
        keys.append(key)
        spans_of.append(spans)
        rows.append(row)
    columns = {kind: _to_columns([spans[kind] for spans in spans_of], np.int64) for kind in ("image", "txt")}
    probabilities = np.array([1.0 if r.sampling_probability is None else r.sampling_probability for r in rows])
    uncertain = zip(keys, rows, (probabilities < 1).tolist(), strict=True)
    identities = [hash_identity(row.uid, key) if is_uncertain else 0 for key, row, is_uncertain in uncertain]
    faces = [row.face_bboxes or [] for row in rows] if blur_faces else None
    row_spans = _join_row_spans(_to_columns([spans.get("json", (0, 0)) for spans in spans_of], np.int64), len(keys))
    identities = np.array(identities, np.uint64)
    return ShardSamples(keys, _join_spans(columns), probabilities, identities, faces, skipped, row_spans)


def _locate_members(shard: Path, index: bytes | None) -> list[Member]:
    """Return the span of each member: from the index beside the shard, else from its headers."""
    if index is None:
        return _read_headers(shard)
    name = str(shard.with_suffix(".idx"))
    return [
        member for sample in read_index(index.decode("utf-8", "surrogateescape"), name) for member in sample.values()
    ]


def _check_index(files: ShardFiles, number: int, end: int, members: int) -> None:
    """Compare an index with its shard where the shard has more than the index lists.

    Args:
        end: end of the last member of the index, in bytes.

    Raises: ContractError, or tarfile.TarError for a shard that is not whole.
    """
    shard = files.paths[number]
    if is_end(io.BytesIO(files.read(number, end, min(files.size(number) - end, MAX_PADDING + 1))), end):
        return
    if (found := len(_read_headers(shard))) != members:
        raise ContractError(
            f"shard {shard}: its .idx lists {members:,} members, and the tar has {found:,}; make the index again, or"
            " delete it"
        )


def _read_headers(shard: Path) -> list[Member]:
    try:
        with open_regular(shard) as file:
            return list_members(file, str(shard))
    except CorruptPart:  # folders, long names or links, which other tools write; or damage, which tarfile reports
        return _locate_with_tarfile(shard)


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


def _read_row(files: ShardFiles, shard: int, span: tuple[int, int], blur_faces: bool) -> Row:
    data = files.read(shard, *span)
    needed = PROBABILITY_FIELD in data or (blur_faces and FACES_FIELD in data)
    return _decode_row(data) if needed else Row()


def _read_arriving_rows(path: Path, keys: Collection[str], blur_faces: bool) -> dict[str, Row]:
    """Return what the JSON members of an arriving shard hold, from the Parquet beside it."""
    try:
        columns = ["uid", "sampling_probability", *(["face_bboxes"] if blur_faces else [])]
        rows = {row.pop("key"): msgspec.convert(row, Row) for row in read_shard_rows(path, columns)}
    except msgspec.ValidationError as error:
        raise ContractError(f"{rows_of_shard(path)}: {error}") from error
    if rows.keys() != set(keys):
        raise ContractError(f"shard {path}: its .idx and its {rows_of_shard(path).name} list different samples")
    return rows


# Hold-out -------------------------------------------------------------------------------------------------------------


def _hold_out(files: ShardFiles, number: int, shard: ShardSamples, share: float) -> None:
    """Hold out the samples of some images, and list what makes samples like others (sample_index.py).

    A hash of the image decides: of its cluster of duplicates, else its perceptual hash, else its bytes. So the decision
    depends on nothing but the sample, and stays when a dataset grows; equal images are held out together.
    """
    links: list[tuple[int, int]] = []
    held: list[tuple[int, int]] = []
    for sample, span in enumerate(shard.spans.tolist()):
        caption, alike = _read_alike(files, number, span, shard.row_spans[sample])
        images = [f"{name} {value}" for name in ("cluster", "phash", "sha256") if (value := getattr(alike, name))]
        if not images:  # no dataset of ours: equal bytes are all that is known
            images = [f"bytes {xxhash.xxh3_128_hexdigest(files.read(number, *span[:2]))}"]
        texts = {caption, *(one.caption for one in alike.captions or ())}
        captions = [f"caption {' '.join(text.casefold().split())}" for text in texts]
        links += [(sample, _hash_text(text)) for text in (*images, *captions)]
        if (drawn := _hash_text(f"holdout {images[0]}")) < share * 2**64:
            held.append((sample, drawn))
    shard.links, shard.held = np.array(links, LINK), np.array(held, LINK)
    shard.probabilities = shard.probabilities.copy()  # which may be memory of Arrow, and read-only
    shard.probabilities[shard.held["sample"].astype(np.int64)] = 0.0


def _read_alike(files: ShardFiles, number: int, span: tuple[int, ...], row_span: np.ndarray) -> tuple[str, _Alike]:
    caption = files.read(number, *span[2:]).decode("utf-8", "replace")
    data = files.read(number, *row_span.item()) if row_span["row_bytes"] else b"{}"
    try:
        return caption, _decode_alike(data)
    except msgspec.MsgspecError:  # fields of a dataset of other tools may have other types
        return caption, _Alike()


def _hash_text(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


# Both -----------------------------------------------------------------------------------------------------------------


def _kind(extension: str) -> str:
    return "image" if extension.lower() in IMAGE_EXTENSIONS else extension.lower()


def hash_identity(uid: str | None, key: str) -> int:
    """Return the 64 bits by which a sample is drawn."""
    return xxhash.xxh3_64_intdigest((uid or key).encode("utf-8", "surrogateescape"))


def _to_columns(spans: list[tuple[int, int]], dtype: type) -> tuple[np.ndarray, np.ndarray]:
    offsets, sizes = np.array(spans, dtype).reshape(-1, 2).T
    return offsets, sizes


def _check_spans(spans: Spans, end: int) -> None:
    """Raise ReadError if a member does not lie within the `end` bytes of its shard."""
    for offsets, sizes in spans.values():
        bad = (offsets < 0) | (sizes < 0) | (offsets > end) | (sizes > end - offsets)
        if bad.any():
            raise tarfile.ReadError(
                f"a member of {sizes[bad][0]:,} bytes begins at byte {offsets[bad][0]:,} of {end:,}"
            )


def _join_spans(columns: Spans) -> np.ndarray:
    images, captions = columns["image"], columns["txt"]
    spans = np.empty(len(images[0]), SPAN)
    if any(sizes.max(initial=0) > MAX_BYTES for _, sizes in (images, captions)):
        raise tarfile.ReadError(f"an image or a caption has more than {MAX_BYTES:,} bytes")
    (spans["image"], spans["image_bytes"]), (spans["caption"], spans["caption_bytes"]) = images, captions
    return spans


def _join_row_spans(rows: tuple[np.ndarray, np.ndarray] | None, count: int) -> np.ndarray:
    spans = np.zeros(count, ROW_SPAN)
    if rows is not None:
        if rows[1].max(initial=0) > MAX_BYTES:
            raise tarfile.ReadError(f"a JSON member has more than {MAX_BYTES:,} bytes")
        spans["row"], spans["row_bytes"] = rows
    return spans
