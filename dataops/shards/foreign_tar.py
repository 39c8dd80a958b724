"""Read tar files that other tools wrote: any format that tarfile reads, but never less than the whole file."""

import tarfile
from tarfile import EOFHeaderError, HeaderError, ReadError  # pyright: ignore[reportAttributeAccessIssue]
from typing import BinaryIO, Literal, cast

from dataops.shards.tar import MORE_FOLLOWS, is_end

MAX_EXTENSION_BYTES = 1 << 20
"""Maximum size of a long name or of a member's attributes, in bytes: tarfile reads them into memory."""
_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class _CheckedHeader(tarfile.TarInfo):
    """A header that is an error if it is damaged or missing; tarfile would end there, as if the file were whole."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> tarfile.TarInfo:
        at = tarfile.offset
        try:
            return super().fromtarfile(tarfile)
        except EOFHeaderError:  # the block of zeros
            if not is_end(cast(BinaryIO, tarfile.fileobj), at):
                raise ReadError(f"its end is at byte {at:,}, but {MORE_FOLLOWS}") from None
            raise
        except HeaderError as error:
            raise ReadError(f"damaged or truncated at byte {at:,}: {error}") from error

    # The entry that tarfile leaves to subclasses; newer patch releases (Debian's 3.13.5, 3.14.8) call no public frombuf.
    def _proc_member(self, tarfile: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _EXTENSIONS and self.size > MAX_EXTENSION_BYTES:
            raise HeaderError(f"an extension of {self.size:,} bytes")
        return super()._proc_member(tarfile)  # pyright: ignore[reportAttributeAccessIssue]


def open_foreign_tar(file: BinaryIO, mode: Literal["r|", "r:"]) -> tarfile.TarFile:
    """Open an uncompressed tar, as a stream or a seekable file.

    Reading it raises tarfile.TarError, EOFError or ValueError if a header is damaged, or if
    anything but blocks of zeros follows the last member.
    """
    return tarfile.open(fileobj=file, mode=mode, tarinfo=_CheckedHeader, encoding="utf-8")
