"""Reads the tensors of a TorchScript archive without torch.jit, and without running the code that its pickle names.

OpenAI published CLIP as such archives: a zip with data.pkl, which describes a tree of modules, and data/N, the bytes of
its tensors. The unpickler below maps six harmless names, and makes an inert record of everything else, so a pickle that
names `os.system` gets a record and calls nothing.
Source of the format: pytorch, torch/csrc/jit/docs/serialization.md.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Record:
    """A stand-in for any object of the pickle: it keeps its attributes and does nothing."""

    def __init__(self, *arguments: Any):
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


class _Storage:
    """A storage class of torch in the pickle, with its dtype."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any) -> Tensor:
    return torch.as_strided(storage, size, stride, offset)


def _parameter(data: Tensor, *rest: Any) -> Tensor:
    return data


def _list(values: Any) -> Any:
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
        super().__init__(io.BytesIO(archive.read(str(root / "data.pkl"))))
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


def is_torchscript(path: Path) -> bool:
    """Return whether a file is a zip with the parts of a TorchScript archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return _root(archive) is not None


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Read the tensors of the module in an archive, by the names of its state dict, on the CPU.

    Raises: ValueError if the file is not an archive whose tensors can be read this way.
    """
    with zipfile.ZipFile(path) as archive:
        root = _root(archive)
        if root is None:
            raise ValueError("it has no data.pkl and constants.pkl")
        try:
            module = _Reader(archive, root).load()
        except Exception as error:  # a hostile pickle raises anything
            raise ValueError(f"its data.pkl cannot be read: {type(error).__name__}: {error}") from error
    return dict(_named(module, ""))


def _root(archive: zipfile.ZipFile) -> PurePosixPath | None:
    folders = [PurePosixPath(name).parent for name in archive.namelist() if PurePosixPath(name).name == "constants.pkl"]
    names = set(archive.namelist())
    return next((folder for folder in folders if str(folder / "data.pkl") in names), None)


def _named(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, _Record):
        for key, inner in value.attributes.items():
            yield from _named(inner, f"{name}.{key}" if name else str(key))
