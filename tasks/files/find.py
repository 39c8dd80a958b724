"""Find the files that a config names by paths and globs, on this machine or in S3."""

import glob
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dataops.digest import canonical_json, file_sha256, text_sha256
from dataops.errors import ConfigError, SourceError, explain_unreadable
from dataops.regular_files import open_regular
from dataops.snapshot import Input
from dataops.stages import SOURCE, SOURCE_NAMES
from tasks.files.base import OpenFile, SourceFile
from tasks.files.s3_file import find_s3_files


@dataclass(frozen=True)
class LocalFile(SourceFile):
    """A file of this machine."""

    name: str
    path: Path

    def digest(self) -> str:
        """Return the hex sha256 of its bytes."""
        try:
            stat = self.path.stat()
            return _digest(self.path, stat.st_size, stat.st_mtime_ns)
        except OSError as error:
            raise explain_unreadable(self.path, error) from error

    def stored_bytes(self) -> int | None:
        return self.path.stat().st_size if self.path.is_file() else None

    def open(self) -> OpenFile:
        try:
            return open_regular(self.path)
        except OSError as error:
            raise explain_unreadable(self.path, error) from error

    @contextmanager
    def local(self) -> Iterator[Path]:
        yield self.path


@lru_cache(maxsize=100_000)
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    return file_sha256(path)


def find_files(patterns: Sequence[str]) -> tuple[list[SourceFile], list[str]]:
    """Return the files of the patterns in the order of their names, and the problems, a line each.

    A file is named by its path below the part of the pattern that has no wildcard, so that names do
    not change from machine to machine.
    """
    found: dict[str, SourceFile] = {}
    wrong: list[str] = []
    for pattern in patterns:
        try:
            files = find_s3_files(pattern) if pattern.startswith("s3://") else _local_files(pattern)
        except SourceError as error:
            wrong.append(f"paths: {error}")
            continue
        if not files:
            what = "matches no file" if glob.has_magic(pattern) else "is not a file"
            wrong.append(f"paths: {pattern!r} {what}")
        for where, file in files:
            found.setdefault(where, file)
            if file.name.encode(errors="replace").decode() != file.name:
                wrong.append(f"paths: the name {file.name!r} is not UTF-8; rename the file")
    names: dict[str, str] = {}
    for where, file in sorted(found.items()):
        if file.name in names:
            wrong.append(
                f"paths: {names[file.name]} and {where} would both be named {file.name!r}; "
                "name them by one pattern with wildcards below their common folder"
            )
        names.setdefault(file.name, where)
    return [found[where] for _, where in sorted(names.items())], wrong


def _local_files(pattern: str) -> list[tuple[str, LocalFile]]:
    """Return (absolute path, file) for the files that a pattern names."""
    folder = fixed_folder(pattern)
    rest = str(Path(pattern).relative_to(folder))
    is_name = (folder / rest).is_file()  # also one with brackets
    names = [rest] if is_name else sorted(glob.glob(rest, root_dir=folder, recursive=True))  # noqa: PTH207
    files = [LocalFile(Path(name).as_posix(), (folder / name).resolve()) for name in names if (folder / name).is_file()]
    return [(str(file.path), file) for file in files]


def find_source_files(patterns: Sequence[str]) -> list[SourceFile]:
    """Return the files of the patterns in the order of their names. Raises: ConfigError with all problems."""
    files, problems = find_files(patterns)
    if problems:
        raise ConfigError("\n".join(f"source.{line}" for line in problems))
    return files


def file_inputs(files: Sequence[SourceFile]) -> list[Input]:
    """Return the files as inputs: their digests, and their names, which the column `source` repeats."""
    names = text_sha256(canonical_json([file.name for file in files]))
    with ThreadPoolExecutor() as pool:  # all cores read and hash, while no worker has anything to do yet
        digests = pool.map(lambda file: file.digest(), files)
        inputs = [
            Input(stage=SOURCE, key=file.name, digest=digest) for file, digest in zip(files, digests, strict=True)
        ]
    return [*inputs, Input(stage=SOURCE_NAMES, key=f"{len(files)} files", digest=names)]


def fixed_folder(pattern: str) -> Path:
    """Return the leading folders of a pattern that have no wildcard, or whose names have brackets as they are written."""
    folder = Path()
    for part in Path(pattern).parts[:-1]:
        if glob.has_magic(part) and not (folder / part).is_dir():
            break
        folder /= part
    return folder
