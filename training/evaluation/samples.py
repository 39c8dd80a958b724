"""One sample of an evaluation set, parsed from the members of a tar; all input is untrusted. No torch."""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataops.errors import ContractError
from dataops.regular_files import open_regular
from dataops.shards.foreign_tar import open_foreign_tar

IMAGE_SUFFIXES = ("png", "jpg", "jpeg", "webp")
MAX_MEMBER_BYTES = 256 << 20
MAX_NUMBERS = 100_000
"""Maximum numbers of a .npy member: a row of labels or facts."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image, still encoded, with its label (classification), labels (multilabel) or captions (retrieval)."""

    key: str
    image: bytes
    label: int = -1
    captions: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()
    facts: tuple[int, ...] = ()
    """Facts about the image, by column; only for tasks with a group or a label column."""


def read_members(shard: Path) -> Iterator[tuple[str, str, bytes]]:
    """Yield (key, lower-case suffix, bytes) of each file in a tar. Raises: ContractError if it is not whole."""
    try:
        with open_regular(shard) as file, open_foreign_tar(file, "r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                stem, dot, suffix = name.partition(".")
                if member.isdir() or not dot or not stem:
                    continue
                if not member.isreg() or member.size > MAX_MEMBER_BYTES:
                    raise ContractError(
                        f"{shard}: {member.name} is no plain file of at most {MAX_MEMBER_BYTES >> 20} MiB"
                    )
                file = tar.extractfile(member)
                data = file.read() if file else b""
                yield f"{folder}/{stem}" if folder else stem, suffix.lower(), data
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise ContractError(f"{shard}: not a whole tar file ({error})") from error


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ContractError(f"{where} is not UTF-8 text") from error


def parse_captions(data: bytes, where: str) -> tuple[str, ...]:
    """Return the captions of a .txt member: its lines that are not blank."""
    captions = tuple(line.strip() for line in _decode(data, where).split("\n") if line.strip())
    if not captions:
        raise ContractError(f"{where} holds no caption")
    return captions


def parse_label(data: bytes, where: str, classes: int) -> int:
    """Return the label of a .cls member."""
    label = _decode(data, where).strip()
    if not (label.isascii() and label.isdigit() and len(label) < 10 and int(label) < classes):
        raise ContractError(f"{where} holds {label[:40]!r}, which is no label from 0 to {classes - 1}")
    return int(label)


def parse_labels(data: bytes, where: str, classes: int) -> tuple[int, ...]:
    """Return the labels whose number is 1."""
    numbers = parse_numbers(data, where)
    if len(numbers) != classes or set(numbers) - {0, 1}:
        raise ContractError(
            f"{where} must hold 0 or 1 for each of {classes} classes; it has {len(numbers)} numbers: {numbers[:8]}"
        )
    return tuple(label for label, number in enumerate(numbers) if number)


def select_label(numbers: tuple[int, ...], column: int, where: str, classes: int) -> int:
    """Return the label from one column of the facts."""
    if column >= len(numbers) or not 0 <= numbers[column] < classes:
        raise ContractError(f"{where}: column {column} of {numbers[:8]} is no label from 0 to {classes - 1}")
    return numbers[column]


def parse_numbers(data: bytes, where: str) -> tuple[int, ...]:
    """Return a row of whole numbers in numpy's own format. Objects, which numpy would unpickle, are an error."""
    import numpy as np

    try:
        array: Any = np.load(io.BytesIO(data), allow_pickle=False)
        flat = np.atleast_1d(array)
        if not isinstance(array, np.ndarray) or flat.ndim != 1 or flat.size > MAX_NUMBERS:
            raise ValueError("it is no row of numbers")
        whole = flat.astype(np.int64)
        if flat.dtype.kind not in "biuf" or not (whole == flat).all():
            raise ValueError(f"it holds {flat.dtype} {flat[:4].tolist()}, not whole numbers")
    except (ValueError, OSError, EOFError, SyntaxError, MemoryError) as error:
        reason = "it is a pickle, which is never read" if "pickle" in str(error) else str(error)
        raise ContractError(f"{where} cannot be read as a .npy row of whole numbers ({reason})") from error
    return tuple(whole.tolist())
