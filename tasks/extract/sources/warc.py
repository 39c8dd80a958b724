"""`kind = "warc"`: archives of whole pages, as crawlers write them."""

from typing import ClassVar, Literal

from pydantic import Field

from dataops.archives.warc import Damage, Page, read_pages
from dataops.config import problems_of
from dataops.plugins import find
from dataops.web.charsets import convert_to_utf8
from dataops.web.markup import BadPage
from dataops.web.page_pairs import PageBounds, PageOrigin
from dataops.web.pages import ExtractedPage, extract_page_pairs
from dataops.web.urls import BadUrl, canonicalise_url
from tasks.extract.sources.base import FilesSource, Template, WebSource
from tasks.extract.sources.pairs_writer import PairsWriter
from tasks.files.base import SourceFile


class PagesSource(WebSource):
    """A source of archived pages."""

    max_page_bytes: int = Field(default=50_000_000, ge=1_000, le=1_000_000_000)
    """Maximum size of a page, in bytes. Larger pages are skipped, and counted in the manifest."""

    def read(self, file: SourceFile, rows: PairsWriter) -> None:
        with file.local() as path:
            for found in read_pages(path, self.max_page_bytes, rows.count):
                if isinstance(found, Damage):
                    rows.add_damage(found.offset, found.reason)
                else:
                    self.add_page(found, rows)

    def add_page(self, page: Page, rows: PairsWriter) -> None:
        """Add the pairs of one page to `rows`."""
        try:
            page_url, extracted = extract_page(page, self.bounds, self.opt_out)
        except BadUrl:
            rows.add_damage(page.offset, "bad_page_url")
            return
        except BadPage as bad:
            rows.add_damage(page.offset, bad.reason)
            return
        rows.count("pages")
        if extracted.surplus_images:
            rows.add_damage(page.offset, "too_many_images")
        rows.add(PageOrigin(page_url, page.offset, extracted.language, extracted.opt_out), extracted.pairs)


class WarcSource(FilesSource, PagesSource):
    """`[source]` of `kind = "warc"`."""

    kind: Literal["warc"] = "warc"
    """WARC files: gz, zstd, lz4 or plain."""
    images: Literal["web", "archive"] = "web"
    """`web` downloads the images from their hosts. `archive` takes them from records of these same files, without any
    request; an image that none of them has is dropped as not_in_archive."""

    @property
    def requests_images(self) -> bool:
        return self.images == "web"

    def problems(self) -> list[str]:
        """Return what is wrong with the paths, and the plugin that `images` lacks."""
        found = super().problems()
        return (
            found + problems_of("images", lambda: find("fetch_hooks", "archives"))
            if self.images == "archive"
            else found
        )

    # Pairs are the same, so their key is. The key of `download` has it.
    execution_fields: ClassVar[frozenset[str]] = FilesSource.execution_fields | {"images"}
    order: ClassVar[int] = 1
    extracted_with: ClassVar[str] = "pairmill-warc/3"
    template: ClassVar[Template | None] = Template(
        summary="Archives of web pages (WARC) become a dataset of image-caption pairs and a CLIP model.",
        table="""paths = {data}   # files or globs; also s3://bucket/crawl/**/*.warc.gz
# images = "archive"           # take the images from these files too, not from the web: no host is asked
# max_failed_files = 10        # files that may be unreadable; the manifest names them
""",
        data="data/*.warc.gz",
        question="Where are the WARC files (a file or a glob)?",
        files=("*.warc.gz", "*.warc", "*/*.warc.gz", "*/*.warc"),
    )


def extract_page(page: Page, bounds: PageBounds, opt_out: frozenset[str] = frozenset()) -> tuple[str, ExtractedPage]:
    """Return the canonical URL of a page, and its pairs.

    Raises: BadUrl if the URL is unusable; BadPage if the page cannot be parsed.
    """
    page_url = canonicalise_url(page.url, page.url, bounds.url)
    html, _ = convert_to_utf8(page.body, page.charset)
    return page_url, extract_page_pairs(html, page_url, bounds, opt_out, page.opt_out)
