"""Read WebDataset shards of others: which images and captions are in them, and single images by their offset."""

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from dataops.errors import UnusableSource
from dataops.shards.foreign_tar import open_foreign_tar
from plugins.own_images.captions import MAX_CAPTION_BYTES
from plugins.own_images.folder import CAPTION_ENDINGS, IMAGE_ENDINGS, read_up_to
from plugins.own_images.reasons import NO_IMAGE
from tasks.files.base import OpenFile, SourceFile
from tasks.files.resumable import ResumableStream
from tasks.files.s3_file import RETRY_LIMIT, S3File, connect_s3
from tasks.web.fetch_error import FetchError


@dataclass
class Sample:
    """The consecutive members of a shard whose names differ only in what follows their first dot."""

    key: str
    offset: int
    """Offset of its first member."""
    images: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    """Name and offset of each image."""
    captions: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])
    """Name and content of each `.txt` and `.json`; of one over MAX_CAPTION_BYTES, the first bytes."""
    not_files: int = 0
    """Members that are no regular files, such as links."""


@contextmanager
def naming_shard(name: str) -> Iterator[None]:
    """Name the shard in what is raised for one that cannot be read. Raises: UnusableSource."""
    try:
        yield
    except (tarfile.TarError, EOFError, ValueError, OSError) as error:
        why = str(error) or type(error).__name__
        raise UnusableSource(
            f"{name}: cannot be read as a tar ({why}); write it again, or remove it from source.paths"
        ) from error


def read_samples(file: SourceFile) -> Iterator[Sample]:
    """Yield the samples of a shard in its order. Raises: UnusableSource if it is damaged, or has no member."""
    with file.open() as stream, naming_shard(file.name):
        can_seek = hasattr(stream, "seek")
        tar, sample = open_foreign_tar(cast(BinaryIO, stream), "r:" if can_seek else "r|"), None
        while (member := tar.next()) is not None:
            tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  else they fill the memory
            folder, _, name = member.name.rpartition("/")
            stem, _, kind = name.partition(".")
            key, kind = f"{folder}/{stem}" if folder else stem, kind.lower()
            if sample is None or sample.key != key:
                if sample is not None:
                    yield sample
                sample = Sample(key, member.offset)
            if not member.isreg():
                sample.not_files += not member.isdir()
            elif kind in IMAGE_ENDINGS:
                sample.images.append((member.name, member.offset))
            elif kind in CAPTION_ENDINGS:
                content = tar.extractfile(member)
                sample.captions.append((member.name, content.read(MAX_CAPTION_BYTES + 1) if content else b""))
        if sample is None:
            raise UnusableSource(f"{file.name}: has no member; remove it from source.paths")
        yield sample


def read_member(file: SourceFile, name: str, offset: int, limit: int) -> bytes:
    """Return the first bytes of a member, at most one more than `limit`.

    Raises: FetchError if there is no such member; SourceError if the shard cannot be read.
    """
    with _open_at(file, offset) as stream, naming_shard(file.name):
        can_seek = hasattr(stream, "seek")
        tar = open_foreign_tar(cast(BinaryIO, stream), "r:" if can_seek else "r|")
        member = tar.next()
        if member is None or member.name != name or (content := tar.extractfile(member)) is None:
            raise FetchError(NO_IMAGE, f"no member {name!r} at byte {offset:,}")
        return read_up_to(cast(OpenFile, content), limit + 1)


def _open_at(file: SourceFile, offset: int) -> OpenFile:
    if isinstance(file, S3File):
        uri = f"s3://{file.bucket}/{file.key}"
        return ResumableStream(uri, lambda at: connect_s3(file.bucket, file.key, offset + at, file.etag), RETRY_LIMIT)
    stream = file.open()
    cast(BinaryIO, stream).seek(offset)
    return stream
