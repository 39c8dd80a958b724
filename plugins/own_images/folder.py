"""List and read the files of a folder on this machine or in a bucket, and never a file outside of it."""

import hashlib
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dataops.digest import canonical_json, text_sha256
from dataops.errors import ConfigError, SourceError, UnusableSource, explain_unreadable
from dataops.regular_files import NotRegularFileError, open_descriptor
from plugins.own_images.reasons import NO_IMAGE, NOT_A_FILE, OUTSIDE_SOURCE
from tasks.files.base import OpenFile, SourceFile
from tasks.files.find import LocalFile
from tasks.files.resumable import ResumableStream
from tasks.files.s3_file import RETRY_LIMIT, S3File, connect_s3, find_s3_files, split_s3
from tasks.web.fetch_error import FetchError

IMAGE_ENDINGS = (
    *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "avif"),
    *("tif", "tiff", "heic", "heif", "jp2", "psd", "svg", "ico"),
)
"""Endings of the names of images in lower case. The second line are formats without a decoder, which `download` drops."""
CAPTION_ENDINGS = ("txt", "json")
IMAGES_PER_PART = 10_000
"""Maximum number of images in a part of extract."""
_COPY = 1 << 20


def ending(path: str) -> str:
    """Return what follows the last dot of a file's name, in lower case."""
    return path.rpartition("/")[2].rpartition(".")[2].lower() if "." in path.rpartition("/")[2] else ""


def is_hidden(path: str) -> bool:
    """Return whether a path has a name that begins with a dot, or the folder in which macOS keeps attributes of files."""
    return any((part.startswith(".") and part.strip(".")) or part == "__MACOSX" for part in path.split("/"))


def check_path(path: object) -> str:
    """Return a path of a list in its plain form, relative to the folder; one of Windows has backslashes.

    Raises: FetchError with the drop reason.
    """
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        raise FetchError(NO_IMAGE, "no path")
    if "/" not in path:
        path = path.replace("\\", "/")
    parts = [part for part in path.strip().split("/") if part not in ("", ".")]
    if path.strip().startswith("/") or "://" in path or ".." in parts:
        raise FetchError(OUTSIDE_SOURCE, "the path leads out of the folder")
    if not parts:
        raise FetchError(NO_IMAGE, "no path")
    return "/".join(parts)


def spellings(path: str) -> dict[str, None]:
    """Return a path, and the same with accented letters composed (NFC) and decomposed (NFD), as file systems differ."""
    return dict.fromkeys((path, unicodedata.normalize("NFC", path), unicodedata.normalize("NFD", path)))


@dataclass(frozen=True)
class Listing:
    """The files below a folder."""

    files: Sequence[str]
    """Their paths relative to the folder, sorted; names that begin with a dot are left out."""
    linked_folders: int = 0
    """Links to folders, which are not followed."""


class Folder:
    """A folder that a config names. It is picklable."""

    def list(self) -> Listing:
        """Return its files. Raises: UnusableSource, SourceError."""
        raise NotImplementedError

    def read(self, path: str, limit: int) -> bytes:
        """Return the first bytes of a file, at most one more than `limit`.

        Raises: FetchError with the drop reason; SourceError if a retry may succeed.
        """
        raise NotImplementedError

    def digest(self, path: str) -> str:
        """Return a digest of the content of a file; of one that cannot be read, the drop reason."""
        raise NotImplementedError

    def file(self, path: str) -> SourceFile:
        """Return a file below it. Raises: ConfigError if there is none."""
        raise NotImplementedError

    def digests(self, paths: Sequence[str]) -> dict[str, str]:
        """Return the digests of files by path."""
        with ThreadPoolExecutor() as pool:
            return dict(zip(paths, pool.map(self.digest, paths), strict=True))


@dataclass(frozen=True)
class LocalFolder(Folder):
    """A folder of this machine."""

    root: str
    """Its absolute path without links."""

    def list(self) -> Listing:
        files, waiting, linked = list[str](), [""], 0
        while waiting:
            base = waiting.pop()
            try:
                entries = [*os.scandir(os.path.join(self.root, base))]  # noqa: PTH118  names may not be UTF-8
            except OSError as error:
                raise explain_unreadable(f"{self.root}/{base}", error) from error
            for entry in entries:
                path = base + entry.name
                if is_hidden(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{path}/")
                elif entry.is_symlink() and os.path.isdir(entry.path):  # noqa: PTH112  False for a link to itself
                    linked += 1
                else:
                    files.append(path)
        return Listing(sorted(files), linked)

    def _open(self, path: str) -> int:
        """Return the descriptor of a regular file below the folder. Raises: FetchError."""
        at = os.path.join(self.root, "")  # noqa: PTH118
        path = next((name for name in spellings(path) if os.path.lexists(at + name)), path)
        try:
            descriptor = open_descriptor(at + path)
        except NotRegularFileError as error:
            raise FetchError(NOT_A_FILE, str(error.strerror)) from error
        except (OSError, ValueError) as error:
            raise FetchError(NO_IMAGE, getattr(error, "strerror", None) or "cannot be opened") from error
        # Of the opened file, so that a link that is set meanwhile changes nothing.
        if not os.readlink(f"/proc/self/fd/{descriptor}").startswith(at):  # noqa: PTH115
            os.close(descriptor)
            raise FetchError(OUTSIDE_SOURCE, "a link leads out of the folder")
        return descriptor

    def read(self, path: str, limit: int) -> bytes:
        with os.fdopen(self._open(path), "rb") as file:
            try:
                return file.read(limit + 1)
            except OSError as error:
                raise SourceError(f"cannot read {self.root}/{path}: {error.strerror}") from error

    def digest(self, path: str) -> str:
        try:
            descriptor = self._open(path)
        except FetchError as error:
            return error.reason
        found = hashlib.sha256()
        with os.fdopen(descriptor, "rb") as file:
            while data := file.read(_COPY):
                found.update(data)
        return found.hexdigest()

    def file(self, path: str) -> SourceFile:
        try:
            os.close(self._open(path))
        except FetchError as error:
            raise ConfigError(f"{path!r} cannot be read in {self.root}: {error.detail}") from error
        return LocalFile(path, Path(self.root, path))


@dataclass(frozen=True)
class S3Folder(Folder):
    """The objects of a bucket below a prefix."""

    bucket: str
    prefix: str
    """"" or a text that ends with a slash."""

    def _find(self) -> dict[str, S3File]:
        escaped = "".join(f"[{letter}]" if letter in "*?[" else letter for letter in self.prefix)
        files = [file for _, file in find_s3_files(f"s3://{self.bucket}/{escaped}**")]
        return {file.key.removeprefix(self.prefix): file for file in files}

    def list(self) -> Listing:
        names = self._find()
        return Listing(sorted(name for name in names if not is_hidden(name)))

    def read(self, path: str, limit: int) -> bytes:
        for key in map(self.prefix.__add__, spellings(path)):
            uri = f"s3://{self.bucket}/{key}"
            with (
                suppress(UnusableSource),
                ResumableStream(uri, partial(connect_s3, self.bucket, key, etag=None), RETRY_LIMIT) as stream,
            ):
                return read_up_to(stream, limit + 1)
        raise FetchError(NO_IMAGE, "no such object, or it may not be read")

    def digests(self, paths: Sequence[str]) -> dict[str, str]:
        found = self._find()
        return {
            path: next((found[name].digest() for name in spellings(path) if name in found), NO_IMAGE) for path in paths
        }

    def digest(self, path: str) -> str:
        return self.digests([path])[path]

    def file(self, path: str) -> SourceFile:
        files = self._find()
        for found in (files[name] for name in spellings(path) if name in files):
            return S3File(path, found.bucket, found.key, found.etag, found.size)
        raise ConfigError(f"{path!r} is no object below s3://{self.bucket}/{self.prefix}")


def read_up_to(stream: OpenFile, size: int) -> bytes:
    """Return `size` bytes of a stream, or all if it has fewer."""
    data = bytearray()
    while len(data) < size and (more := stream.read(size - len(data))):
        data += more
    return bytes(data)


def open_folder(uri: str) -> Folder:
    """Return the folder that a config names. Raises: ConfigError if it is none."""
    if uri.startswith("s3://"):
        bucket, key = split_s3(uri)
        return S3Folder(bucket, f"{key.rstrip('/')}/" if key.strip("/") else "")
    path = Path(uri).expanduser()
    if not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "is not a folder"
        raise ConfigError(f"{uri!r} {what}")
    return LocalFolder(str(path.resolve()))


@dataclass(frozen=True)
class Group:
    """The images and the captions whose names differ only in their endings."""

    images: tuple[str, ...]
    captions: tuple[str, ...]


@dataclass(frozen=True)
class FolderPart(SourceFile):
    """Some of the images of a folder, with their captions: a part of extract."""

    name: str
    folder: Folder
    groups: tuple[Group, ...]
    first: int
    """Number of the images in the parts before."""
    content: str
    left_out: Mapping[str, int]
    """Links to folders and files that are neither an image nor a caption by their ending, in the first part."""

    def digest(self) -> str:
        return self.content

    def open(self) -> OpenFile:
        raise SourceError(f"{self.name} is a list of files", retryable=False)

    @property
    def images(self) -> int:
        """Number of its images."""
        return sum(max(1, len(group.images)) for group in self.groups)


def group_files(listing: Listing) -> list[Group]:
    """Return the images of a folder with their captions, and the captions without an image, in the order of their names."""
    stems: dict[str, tuple[list[str], list[str]]] = {}
    images = {path: path[: -len(ending(path)) - 1] for path in listing.files if ending(path) in IMAGE_ENDINGS}
    names = {*images, *images.values()}
    for path in listing.files:
        kind = ending(path)
        if kind in IMAGE_ENDINGS or kind in CAPTION_ENDINGS:
            stem = path[: -len(kind) - 1]
            if kind in CAPTION_ENDINGS and stem not in names:
                stem = next((name for name in spellings(stem) if name in names), stem)
            stem = images.get(stem, stem)  # cat.jpg.txt
            stems.setdefault(stem, ([], []))[kind in CAPTION_ENDINGS].append(path)
    groups = list[Group]()
    for _, (pictures, captions) in sorted(stems.items()):
        captions.sort(key=lambda path: (ending(path) != "txt", path))  # a JSON often repeats the caption of the .txt
        groups.append(Group(tuple(pictures), tuple(captions)))
    return groups


def cut_parts(folder: Folder, listing: Listing, size: int) -> Iterator[FolderPart]:
    """Yield parts of at most `size` groups."""
    groups = group_files(listing)
    others = sum(ending(path) not in (*IMAGE_ENDINGS, *CAPTION_ENDINGS) for path in listing.files)
    left_out = {"linked_folders": listing.linked_folders, "other_files": others}
    digests = folder.digests([path for group in groups for path in group.captions])
    first = 0
    for number, start in enumerate(range(0, len(groups), size)):
        some = tuple(groups[start : start + size])
        content = [[group.images, [[path, digests[path]] for path in group.captions]] for group in some]
        text = canonical_json(content if not number else [first, content]).encode("utf-8", "surrogatepass")
        digest = hashlib.sha256(text).hexdigest()
        part = FolderPart(f"images-{number:05d}", folder, some, first, digest, {} if number else left_out)
        first += part.images
        yield part


def digest_images(folder: Folder, paths: Sequence[str]) -> str:
    """Return a digest of the names and the contents of images."""
    found = sorted(folder.digests(paths).items())
    return text_sha256(canonical_json([[os.fsencode(path).hex(), digest] for path, digest in found]))
