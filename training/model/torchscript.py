"""Reads the tensors of torch's zip archives without torch.load, and without running the code that their pickle names.

`torch.save` and TorchScript, as which OpenAI published CLIP, write the same format: a zip with data.pkl, which describes a
state dict or a tree of modules, and data/N, the bytes of its tensors. The unpickler below maps a few harmless names, and
makes an inert record of everything else, so a pickle that names `os.system` gets a record and calls nothing. Nothing is
larger than the file: torch.load trusts the sizes that the pickle declares.
Source of the format: pytorch, torch/csrc/jit/docs/serialization.md.
"""

import io
import math
import pickle  # noqa: TID251  all names but a few become inert records
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from dataops.regular_files import open_regular

MAX_PICKLE = 16 << 20
"""Maximum size of data.pkl, in bytes; that of a model of 10,000 tensors has about 1 MiB."""
MAX_OPERATIONS = 500_000
"""Maximum operations of the pickles of a file; a model of 10,000 tensors has about 400,000."""
MAX_TENSORS = 20_000
"""Maximum number of tensors in a file."""
MAX_NAME = 1_000
"""Maximum length of the name of a class in a file of before torch 1.6, in characters."""
_LEGACY_PICKLES = 4
"""Number of pickles up to the object: a magic number, a version, facts of the system, and the object."""
MAX_NAMES = 100_000
"""Maximum number of modules and tensors in a tree of modules, each counted by each of its names."""
MAX_DEPTH = 100
"""Maximum depth of a tree of modules."""

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Record:
    """A stand-in for any object of the pickle: it keeps its attributes and does nothing."""

    def __init__(self, *arguments: object):
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        self.attributes = state if isinstance(state, dict) else {}


class _Storage:
    """A storage class of torch in the pickle, with its dtype."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: object) -> Tensor:
    # A stride of 0 makes a tensor of any size of one number.
    if math.prod(size) > storage.numel():
        raise ValueError(f"a tensor of {math.prod(size)} numbers in a storage of {storage.numel()}")
    return torch.as_strided(storage, size, stride, offset)


def _parameter(data: Tensor, *rest: object) -> Tensor:
    return data


def _list(values: object) -> Any:
    return values


KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.jit._pickle", "build_intlist"): _list,
    ("torch.jit._pickle", "build_boollist"): _list,
    ("torch.jit._pickle", "build_tensorlist"): _list,
    ("collections", "OrderedDict"): OrderedDict,
}


class _Reader(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, root: PurePosixPath):
        data = archive.read(str(root / "data.pkl"))
        _check_pickle(data)
        super().__init__(io.BytesIO(data))
        self._archive, self._root = archive, root
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in DTYPES:
            return _Storage(DTYPES[name])
        return KNOWN.get((module, name), _Record)

    def persistent_load(self, pid: Any) -> Tensor:
        _, kind, number, _, _ = pid
        if number not in self._storages:
            data = bytearray(self._archive.read(str(self._root / "data" / str(number))))
            self._storages[number] = torch.frombuffer(data, dtype=kind.dtype) if data else torch.empty(0)
        return self._storages[number]


def is_archive(path: Path) -> bool:
    """Return whether a file is a zip as torch writes it."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return _root(archive) is not None


def read_archive(path: Path) -> Any:
    """Read what torch saved in an archive; of a module of TorchScript, the tensors by the names of its state dict.

    Raises: ValueError if the file is not an archive whose tensors can be read this way.
    """
    with zipfile.ZipFile(path) as archive:
        root = _root(archive)
        if root is None:
            raise ValueError("it has no data.pkl")
        is_script = str(root / "constants.pkl") in archive.namelist()
        try:
            _check_sizes(archive, root, path.stat().st_size)
            found = _Reader(archive, root).load()
        except Exception as error:  # a hostile pickle raises anything
            raise ValueError(f"its data.pkl cannot be read: {type(error).__name__}: {error}") from error
    return dict(_named(found)) if is_script else found


def _root(archive: zipfile.ZipFile) -> PurePosixPath | None:
    """Return the folder of data.pkl, the one that has constants.pkl too if there are several."""
    names = archive.namelist()
    folders = [PurePosixPath(name).parent for name in names if PurePosixPath(name).name == "data.pkl"]
    known = set(names)
    return next((f for f in folders if str(f / "constants.pkl") in known), folders[0] if folders else None)


def _check_sizes(archive: zipfile.ZipFile, root: PurePosixPath, size: int) -> None:
    """Check that what will be read is not larger than the file, and that its byte order is ours."""
    data = [entry for entry in archive.infolist() if PurePosixPath(entry.filename).parent == root / "data"]
    if len(data) > MAX_TENSORS:
        raise ValueError(f"it has over {MAX_TENSORS:,} tensors")
    packed = [entry.filename for entry in data if entry.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise ValueError(f"{packed[0]} is compressed; torch writes tensors uncompressed")
    if sum(entry.file_size for entry in data) > size:
        raise ValueError(f"the tensors would have more bytes than the file, {size}")
    if archive.getinfo(str(root / "data.pkl")).file_size > MAX_PICKLE:
        raise ValueError(f"it has over {MAX_PICKLE} bytes")
    order = str(root / "byteorder")
    if order in archive.namelist() and archive.getinfo(order).file_size > 6:
        raise ValueError("its byte order is unknown")
    if order in archive.namelist() and archive.read(order) != b"little":
        raise ValueError("its byte order is not little")


def _check_pickle(data: bytes) -> None:
    """Check that no number of the memo is larger than the pickle: the unpickler's memo is an array."""
    for operation, argument in _list_operations(data):
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= int(argument or 0) <= len(data):
            raise ValueError(f"a memo of {argument} objects")


def _list_operations(*pickles: Any) -> Iterator[tuple[pickletools.OpcodeInfo, Any]]:
    """Yield operation and argument of pickles, one after the other. Raises: ValueError if they have too many."""
    operations = chain.from_iterable(map(pickletools.genops, pickles))
    for number, (operation, argument, _) in enumerate(operations):
        if number >= MAX_OPERATIONS:
            raise ValueError(f"its pickle has over {MAX_OPERATIONS:,} operations")
        yield operation, argument


def check_legacy(path: Path) -> None:
    """Check the pickles of a file of before torch 1.6: torch.load takes quadratic time to report a long name of a class.

    Raises: ValueError.
    """
    with open_regular(path) as file:
        for operation, argument in _list_operations(*[file] * _LEGACY_PICKLES):
            if operation.name in ("GLOBAL", "INST") and len(str(argument)) > MAX_NAME:
                raise ValueError(f"a class whose name has over {MAX_NAME} characters")


def _named(module: object) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a tree of modules by their names, in the order of the tree.

    Modules may share others, which then have several names; so a small pickle may describe a tree
    of any size.
    """
    left, count = [(module, "", 0)], 0
    while left:
        value, name, depth = left.pop()
        count += 1
        if count > MAX_NAMES or depth > MAX_DEPTH:
            raise ValueError(f"its modules have over {MAX_NAMES} names, or are nested over {MAX_DEPTH} deep")
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, _Record):
            inner = [(v, f"{name}.{key}" if name else str(key), depth + 1) for key, v in value.attributes.items()]
            left += reversed(inner)
            if len(left) > MAX_NAMES:
                raise ValueError(f"its modules have over {MAX_NAMES} names")
