"""`kind = "wat"`: files of page metadata, as Common Crawl publishes them."""

from typing import ClassVar, Literal

from dataops.archives.warc import Damage
from dataops.archives.wat import extract_wat_pairs, read_wat
from dataops.web.page_pairs import PageBounds
from tasks.extract.sources.base import Source
from tasks.extract.sources.pairs_writer import PairsWriter
from tasks.extract.sources.warc import FilesSource
from tasks.files.base import SourceFile


class WatReader(Source):
    """A source of WAT files, wherever they are."""

    opt_out_directives: tuple[str, ...] = ("noai", "noimageai", "noimageindex")
    """A page that says one of these, in `<meta name="robots">` or in its response's headers, forbids the use of its images:
    its rows are dropped as opt_out. Also there are `noindex` and `tdm-reservation` (see dataops/web/declarations.py)."""

    extracted_with: ClassVar[str] = "pairmill-wat/1"

    def read(self, file: SourceFile, rows: PairsWriter) -> None:
        bounds = PageBounds(self.max_caption_chars, self.max_url_chars)
        opt_out = frozenset(directive.lower() for directive in self.opt_out_directives)
        with file.open() as stream:
            for found in read_wat(stream, self.max_url_chars, rows.count):
                if isinstance(found, Damage):
                    rows.damage(found.offset, found.reason)
                    continue
                origin, candidates, beyond = extract_wat_pairs(found, bounds, opt_out)
                if beyond:
                    rows.damage(found.offset, "too_many_images")
                rows.add(origin, candidates)


class WatSource(FilesSource, WatReader):
    """`[source]` of `kind = "wat"`."""

    kind: Literal["wat"] = "wat"
    """WAT files, gz, zstd or plain."""
