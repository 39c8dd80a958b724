"""`kind = "warc"`: archives of whole pages, as crawlers write them."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from dataops.archives.warc import Damage, Page, read_pages
from dataops.snapshot import Input
from dataops.web.charsets import convert_to_utf8
from dataops.web.markup import BadPage
from dataops.web.page_pairs import PageBounds, PageOrigin
from dataops.web.pages import ExtractedPage, extract_page_pairs
from dataops.web.urls import BadUrl, canonicalise_url
from tasks.engine.context import Context
from tasks.extract.sources.base import Source
from tasks.extract.sources.pairs_writer import PairsWriter
from tasks.files.base import SourceFile
from tasks.files.find import file_inputs, find_files, find_source_files


class FilesSource(Source):
    """A source of files that lie somewhere."""

    paths: list[str] = Field(min_length=1)
    """Files or globs (`**` for any depth), relative to the current folder, or `s3://bucket/key` with the same wildcards. A
    file is named in the data by its path below the part of the pattern that has no wildcard, so that names do not change
    from machine to machine."""

    # The digests and names of the files decide, not the patterns that found them.
    execution_fields: ClassVar[frozenset[str]] = frozenset({"paths"})

    def problems(self) -> list[str]:
        return find_files(self.paths)[1]

    def inputs(self) -> list[Input]:
        return file_inputs(find_source_files(self.paths))

    def files(self, context: Context) -> Sequence[SourceFile]:
        return find_source_files(self.paths)


class PagesSource(Source):
    """A source of archived pages."""

    max_page_bytes: int = Field(default=50_000_000, ge=1_000, le=1_000_000_000)
    """Longer pages are not read; they are counted in the manifest."""
    opt_out_directives: tuple[str, ...] = ("noai", "noimageai", "noimageindex")
    """A page that says one of these, in `<meta name="robots">` or in its response's headers, forbids the use of its images:
    its rows are dropped as opt_out. Also there are `noindex` and `tdm-reservation` (see dataops/web/declarations.py)."""

    def read(self, file: SourceFile, rows: PairsWriter) -> None:
        with file.local() as path:
            for found in read_pages(path, self.max_page_bytes, rows.count):
                if isinstance(found, Damage):
                    rows.damage(found.offset, found.reason)
                else:
                    self.add_page(found, rows)

    def add_page(self, page: Page, rows: PairsWriter) -> None:
        """Take the candidates of one page."""
        bounds = PageBounds(self.max_caption_chars, self.max_url_chars)
        opt_out = frozenset(directive.lower() for directive in self.opt_out_directives)
        try:
            page_url, found = extract_page(page, bounds, opt_out)
        except (BadUrl, BadPage) as bad:
            rows.damage(page.offset, "bad_page_url" if isinstance(bad, BadUrl) else bad.reason)
            return
        rows.count("pages")
        if found.surplus_images:
            rows.damage(page.offset, "too_many_images")
        rows.add(PageOrigin(page_url, page.offset, found.language, found.opt_out), found.pairs)


class WarcSource(FilesSource, PagesSource):
    """`[source]` of `kind = "warc"`."""

    kind: Literal["warc"] = "warc"
    """WARC files, gz, zstd, lz4 or plain."""

    extracted_with: ClassVar[str] = "pairmill-warc/2"


def extract_page(page: Page, bounds: PageBounds, opt_out: frozenset[str] = frozenset()) -> tuple[str, ExtractedPage]:
    """The page's canonical address, and what it gives.

    Raises: BadUrl, BadPage when it has no usable address or cannot be read.
    """
    page_url = canonicalise_url(page.url, page.url, bounds.url)
    html, _ = convert_to_utf8(page.body, page.charset)
    return page_url, extract_page_pairs(html, page_url, bounds, opt_out, page.opt_out)
