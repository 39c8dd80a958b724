"""Read tar files that other tools wrote: any format that tarfile reads, but never less than the whole file."""

import tarfile
from tarfile import EOFHeaderError, HeaderError, ReadError  # pyright: ignore[reportAttributeAccessIssue]
from typing import BinaryIO, Literal, cast

from dataops.shards.tar import MORE_FOLLOWS, is_end


class _CheckedHeader(tarfile.TarInfo):
    """A header that is an error if it is damaged or missing; tarfile would end there, as if the file were whole."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> tarfile.TarInfo:
        at = tarfile.offset
        try:
            return super().fromtarfile(tarfile)
        except EOFHeaderError:  # the block of zeros
            if not is_end(cast(BinaryIO, tarfile.fileobj)):
                raise ReadError(f"its end is at byte {at:,}, but {MORE_FOLLOWS}") from None
            raise
        except HeaderError as error:
            raise ReadError(f"damaged or truncated at byte {at:,}: {error}") from error


def open_foreign_tar(file: BinaryIO, mode: Literal["r|", "r:"]) -> tarfile.TarFile:
    """Open an uncompressed tar, as a stream or a seekable file.

    Reading it raises tarfile.TarError, EOFError or ValueError if a header is damaged, or if anything but blocks of zeros
    follows the last member.
    """
    return tarfile.open(fileobj=file, mode=mode, tarinfo=_CheckedHeader)
