"""`kind = "wat"`: files of page metadata, as Common Crawl publishes them."""

from typing import ClassVar, Literal

from dataops.archives.warc import Damage
from dataops.archives.wat import extract_wat_pairs, read_wat
from tasks.extract.sources.base import FilesSource, WebSource
from tasks.extract.sources.pairs_writer import PairsWriter
from tasks.files.base import SourceFile


class WatReader(WebSource):
    """A source of WAT files."""

    extracted_with: ClassVar[str] = "pairmill-wat/1"

    def read(self, file: SourceFile, rows: PairsWriter) -> None:
        bounds, opt_out = self.bounds, self.opt_out
        with file.open() as stream:
            for found in read_wat(stream, self.max_url_chars, rows.count):
                if isinstance(found, Damage):
                    rows.add_damage(found.offset, found.reason)
                    continue
                origin, pairs, surplus_images = extract_wat_pairs(found, bounds, opt_out)
                if surplus_images:
                    rows.add_damage(found.offset, "too_many_images")
                rows.add(origin, pairs)


class WatSource(FilesSource, WatReader):
    """`[source]` of `kind = "wat"`."""

    kind: Literal["wat"] = "wat"
    """WAT files: gz, zstd or plain."""
    order: ClassVar[int] = 2
