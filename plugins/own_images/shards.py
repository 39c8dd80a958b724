"""Read WebDataset shards of others: which images and captions are in them, and single images by their offset."""

import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from dataops.errors import UnusableSource
from dataops.shards.foreign_tar import open_foreign_tar
from plugins.own_images.captions import MAX_CAPTION_BYTES
from plugins.own_images.folder import CAPTION_ENDINGS, IMAGE_ENDINGS, is_hidden, read_up_to
from plugins.own_images.reasons import NO_IMAGE
from tasks.files.base import OpenFile, SourceFile
from tasks.files.resumable import ResumableStream
from tasks.files.s3_file import RETRY_LIMIT, S3File, connect_s3
from tasks.web.fetch_error import FetchError

_MAX_DOTTED = 1_000
"""Images and captions with further dots in their names that are held for one sample."""


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
    dotted: "dict[str, Sample]" = field(default_factory=dict[str, "Sample"])
    """Images and captions with further dots in their names (seg.mask.png), by what stands before the last dot."""

    def split(self) -> "Iterable[Sample]":
        """Return the sample; if all of its names have further dots (2026.12.02.jpg), a sample for each of `dotted`."""
        return self.dotted.values() if self.dotted and not self.images and not self.captions else (self,)


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
    """Yield the samples of a shard in its order; names that begin with a dot are left out, as in folders.

    Raises: UnusableSource if it is damaged, or has no member.
    """
    with file.open() as stream, naming_shard(file.name):
        can_seek = hasattr(stream, "seek")
        tar, sample = open_foreign_tar(cast(BinaryIO, stream), "r:" if can_seek else "r|"), None
        while (member := tar.next()) is not None:
            tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  else they fill the memory
            if is_hidden(member.name):
                continue
            folder, _, name = member.name.rpartition("/")
            stem, _, endings = name.partition(".")
            before, _, kind = endings.lower().rpartition(".")
            key, dotted = f"{folder}/{stem}" if folder else stem, member.name[: -len(kind) - 1]
            is_full = sample is not None and len(sample.dotted) > _MAX_DOTTED and dotted not in sample.dotted
            if sample is None or sample.key != key or is_full:
                if sample is not None:
                    yield from sample.split()
                sample = Sample(key, member.offset)
            if not member.isreg():
                sample.not_files += not member.isdir()
            elif kind in IMAGE_ENDINGS or kind in CAPTION_ENDINGS:
                of = sample.dotted.setdefault(dotted, Sample(key, member.offset)) if before else sample
                if kind in IMAGE_ENDINGS:
                    of.images.append((member.name, member.offset))
                else:
                    content = tar.extractfile(member)
                    of.captions.append((member.name, content.read(MAX_CAPTION_BYTES + 1) if content else b""))
        if sample is None:
            raise UnusableSource(f"{file.name}: has no member; remove it from source.paths")
        yield from sample.split()


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
