"""`kind = "folder"`, `"webdataset"` and `"huggingface"`: images that are read where they lie, and their captions.

The URL of a row is `source://NAME/PATH`: the name of the source, and the path of the image in it (dataops.web.urls). So the
same images have the same uids in whatever folder they lie. What reads them is plugins/own_images/hook.py.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dataops.config import ConfigPath, problems_of
from dataops.errors import ConfigError, PairmillError
from dataops.schema import DropReason
from dataops.snapshot import Input
from dataops.stages import SOURCE
from plugins.own_images.reasons import NO_IMAGE, OUTSIDE_SOURCE, REASONS, REPEATED_NAME, SEVERAL_IMAGES
from plugins.own_images.urls import own_image_url
from tasks.engine.context import Context
from tasks.extract.sources.base import EarlierSource, FilesSource, Source, Survey, Template
from tasks.extract.sources.pairs_writer import PairsWriter
from tasks.files.base import SourceFile
from tasks.files.find import file_inputs

if TYPE_CHECKING:
    from plugins.own_images.captions import Described, ImageRows
    from plugins.own_images.folder import Folder, Group

PATH_NAMES = (
    *("file_name", "filename", "file", "path", "file_path", "filepath"),
    *("image", "image_path", "image_file", "image_name", "img", "img_path"),
)
"""Usual names of the column with the path of the image, in lower case."""


class OwnImages(Source):
    """A source whose images are read where they lie."""

    caption_columns: tuple[str, ...] = ()
    """Columns of the list or keys of the JSON with captions; each holds a text or a list of texts. Each text becomes a row.
    By default, the usual names are found: `caption`, `captions`, `text`, `caption_1`, `alt_text`, `title`,
    `description`. Set `filter.captions_per_image` too, to keep more than one of an image."""

    reasons: ClassVar[Mapping[str, DropReason]] = REASONS

    @property
    def requests_images(self) -> bool:
        return False

    @property
    def url_name(self) -> str:
        """What names the source in the URLs of its images."""
        return self.name or self.kind

    def url_of(self, path: str) -> str:
        """Return the URL of an image."""
        return own_image_url(self.url_name, path)

    def image_inputs(self) -> list[Input]:
        """Return what `download` reads: the files, with digests of the images."""
        return self.inputs()

    @abstractmethod
    def source_files(self) -> Sequence[SourceFile]:
        """Return the files of the source. Raises: ConfigError, SourceError."""

    def inputs(self) -> list[Input]:
        return file_inputs(self.source_files())

    def files(self, context: Context) -> Sequence[SourceFile]:
        return self.source_files()

    def rows(self, writer: PairsWriter) -> "ImageRows":
        """Return what writes the rows of a file."""
        from plugins.own_images.captions import ImageRows

        return ImageRows(writer, (self.max_caption_chars, self.max_url_chars))


class FolderSource(OwnImages):
    """`[source]` of `kind = "folder"`."""

    kind: Literal["folder"] = "folder"
    """Images in a folder and the folders below it, with their captions in files or in a list."""
    folder: ConfigPath = Field(min_length=1)
    """The folder, or `s3://bucket/prefix`. The caption of `cats/1.jpg` is in `cats/1.txt`,
    or in `cats/1.json` as `caption` or `captions`. Names that begin with a dot are left out, and links that lead out of
    the folder are not followed."""
    captions: str | None = None
    """List of the images with their captions, relative to the folder: CSV, TSV, JSON Lines or Parquet. Then only the images
    of the list are read, and no `.txt` or `.json`."""
    path_column: str | None = None
    """Column of the list with the path of the image, relative to the folder. By default, the usual names are found:
    `file_name`, `path`, `image`, ..."""

    order: ClassVar[int] = 5
    extracted_with: ClassVar[str] = "pairmill-folder/2"
    offset_unit: ClassVar[str] = "image"
    execution_fields: ClassVar[frozenset[str]] = frozenset({"folder"})
    template: ClassVar[Template | None] = Template(
        summary="A folder of images with captions becomes a dataset and a CLIP model.",
        table="folder = {data}\n",
        data="images",
        question="In which folder are the images?",
        files=("*",),
        needs_contact=False,
    )

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        from plugins.own_images.folder import IMAGE_ENDINGS, ending, open_folder

        return any(ending(path) in IMAGE_ENDINGS for path in open_folder(str(folder)).list().files)

    @classmethod
    def survey(cls, data: str) -> Survey | None:
        from plugins.own_images.survey import survey_folder

        return survey_folder(cls, data)

    @property
    def opened(self) -> "Folder":
        """The folder. Raises: ConfigError."""
        from plugins.own_images.folder import open_folder

        try:
            return open_folder(self.folder)
        except ConfigError as error:
            raise ConfigError(f"source.folder: {error}") from error

    def problems(self) -> list[str]:
        try:
            self.source_files()
        except PairmillError as error:
            text = str(error)
            return [text.removeprefix("source.") if text.startswith("source.") else f"folder: {text}"]
        return []

    def source_files(self) -> Sequence[SourceFile]:
        from plugins.own_images.folder import IMAGE_ENDINGS, IMAGES_PER_PART, cut_parts, ending

        folder = self.opened
        if self.captions is not None:
            try:
                return [folder.file(self.captions)]
            except ConfigError as error:
                raise ConfigError(f"source.captions: {error}") from error
        listing = folder.list()
        if not any(ending(path) in IMAGE_ENDINGS for path in listing.files):
            kinds = ", ".join(sorted({f".{ending(path)}" for path in listing.files})[:10])
            has = f"it has files that end in {kinds}" if kinds else "it has no file"
            raise ConfigError(f"source.folder: {self.folder!r} has no image ({', '.join(IMAGE_ENDINGS[:9])}); {has}")
        return [*cut_parts(folder, listing, IMAGES_PER_PART)]

    def image_inputs(self) -> list[Input]:
        from plugins.own_images.folder import FolderPart, digest_images

        paths = list[str]()
        for file in self.source_files():
            if isinstance(file, FolderPart):
                paths += [path for group in file.groups for path in group.images]
            else:
                paths += [path for _, path, _ in self._read_list(file, lambda *_: None) if isinstance(path, str)]
        digest = digest_images(self.opened, [*dict.fromkeys(paths)])
        return [Input(stage=SOURCE, key="images", digest=digest)]

    def estimate_new(
        self, new: Sequence[SourceFile], known: Sequence[tuple[SourceFile, int]], earlier: EarlierSource | None
    ) -> float | None:
        from plugins.own_images.folder import FolderPart

        if self.captions is None:
            return float(sum(file.images for file in new if isinstance(file, FolderPart)))
        return float(sum(1 for file in new for _ in self._read_list(file, lambda *_: None)))

    def read(self, file: SourceFile, rows: PairsWriter) -> None:
        from plugins.own_images.folder import FolderPart

        found = self.rows(rows)
        if isinstance(file, FolderPart):
            for what, count in file.left_out.items():
                rows.count(what, count) if count else None
            number = file.first
            for group in file.groups:
                self._add_group(file.folder, group, number, found)
                number += max(1, len(group.images))
        else:
            from tasks.web.fetch_error import FetchError

            for number, path, described in self._read_list(file, rows.add_damage):
                rows.count("rows")
                if isinstance(path, str):
                    found.add(self.url_of(path), number, described)
                elif isinstance(path, FetchError):
                    found.add(self.url_of(str(path.detail)), number, described, path.reason)
        found.flush()

    def _add_group(self, folder: "Folder", group: "Group", number: int, rows: "ImageRows") -> None:
        """Add the rows of images whose names differ only in their endings."""
        described, bad = self._read_captions(folder, group)
        rows.writer.count("images", len(group.images))
        rows.writer.count("bad_caption_files", bad) if bad else None
        shown = None if bad and not any(text.strip() for text, _ in described.captions) else described
        reason = SEVERAL_IMAGES if len(group.images) > 1 else None if group.images else NO_IMAGE
        for index, path in enumerate(group.images or group.captions[:1]):
            rows.add(self.url_of(path), number + index, shown, reason)

    def _read_captions(self, folder: "Folder", group: "Group") -> "tuple[Described, int]":
        """Return what the caption files of a group state, and the number of those that cannot be read."""
        from plugins.own_images.captions import MAX_CAPTION_BYTES, Described, parse_caption_file
        from tasks.web.fetch_error import FetchError

        found = list[Described | None]()
        for path in group.captions:
            try:
                found.append(parse_caption_file(path, folder.read(path, MAX_CAPTION_BYTES), self.caption_columns))
            except FetchError:
                found.append(None)
        return Described.merge(found), found.count(None)

    def _read_list(
        self, file: SourceFile, report: Callable[[int, str], None]
    ) -> "Iterator[tuple[int, str | Exception, Described]]":
        """Yield the number, the path (or a FetchError if it is refused) and the captions of each row of the list."""
        from plugins.own_images.captions import describe, find_caption_names, find_column
        from plugins.own_images.folder import check_path
        from plugins.own_images.tables import read_rows
        from tasks.web.fetch_error import FetchError

        path_column, captions = "", list[str]()

        def choose(names: Sequence[str]) -> list[str]:
            nonlocal path_column, captions
            path_column = find_column(names, self.path_column, PATH_NAMES, file.name, "path_column")
            captions = find_caption_names([n for n in names if n != path_column], self.caption_columns, file.name)
            return [path_column, *captions, *(name for name in ("url", "page_url", "license") if name in names)]

        for number, row in read_rows(file, choose, report):
            try:
                path = check_path(row.get(path_column))
            except FetchError as error:
                path = FetchError(error.reason, str(row.get(path_column) or ""))
            yield number, path, describe(row, captions)


class WebDatasetSource(FilesSource, OwnImages):
    """`[source]` of `kind = "webdataset"`."""

    kind: Literal["webdataset"] = "webdataset"
    """WebDataset shards (`.tar`, not compressed), such as those of img2dataset: an image, and its caption as `.txt` or
    `.json`, in consecutive members."""

    order: ClassVar[int] = 6
    extracted_with: ClassVar[str] = "pairmill-webdataset/2"
    template: ClassVar[Template | None] = Template(
        summary="WebDataset shards become a dataset and a CLIP model.",
        table="paths = {data}   # files or globs; also s3://bucket/shards/*.tar\n",
        data="shards/*.tar",
        question="Where are the shards (a file or a glob)?",
        files=("*.tar", "*/*.tar"),
        needs_contact=False,
    )

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        return any(folder.glob("**/*.tar"))

    @classmethod
    def survey(cls, data: str) -> Survey | None:
        from plugins.own_images.survey import survey_files

        return survey_files(cls, data, "*.tar")

    def problems(self) -> list[str]:
        return super().problems() or problems_of("paths", lambda: _check_endings(self.source_files(), (".tar",)))

    def source_files(self) -> Sequence[SourceFile]:
        from tasks.files.find import find_source_files

        return find_source_files(self.paths)

    def read(self, file: SourceFile, rows: PairsWriter) -> None:
        from plugins.own_images.captions import Described, parse_caption_file
        from plugins.own_images.shards import read_samples

        found, seen = self.rows(rows), set[str]()
        for sample in read_samples(file):
            rows.count("samples")
            rows.count("not_files", sample.not_files) if sample.not_files else None
            described = [parse_caption_file(name, data, self.caption_columns) for name, data in sorted(
                sample.captions, key=lambda one: not one[0].lower().endswith(".txt")
            )]  # fmt: skip
            names = [name for name, _ in (*sample.images, *sample.captions)]
            leaves = any(name.startswith("/") or ".." in name.split("/") for name in names)
            reason = OUTSIDE_SOURCE if leaves else SEVERAL_IMAGES if len(sample.images) > 1 else None
            reason = reason or (None if sample.images else NO_IMAGE)
            if not sample.images and not sample.captions:
                continue
            for name, offset in sample.images or [(sample.captions[0][0], sample.offset)]:
                repeated = REPEATED_NAME if name in seen else None
                seen.add(name)
                shown = None if described and not any(described) else Described.merge(described)
                found.add(self.url_of(f"{file.name}/{name}"), offset, shown, reason or repeated)
        found.flush()


class HuggingFaceSource(OwnImages):
    """`[source]` of `kind = "huggingface"`."""

    kind: Literal["huggingface"] = "huggingface"
    """A dataset in Parquet with a column of images, as the datasets library writes it, in a folder, a bucket or the Hub."""
    paths: list[ConfigPath] = Field(min_length=1)
    """Parquet files or globs; `s3://bucket/key` with the same wildcards; or
    `hf://datasets/OWNER/NAME`, all Parquet files of a dataset of the Hub, also with a revision and a pattern:
    `hf://datasets/OWNER/NAME@main/data/train-*.parquet`. HF_TOKEN and HF_ENDPOINT hold."""
    image_column: str | None = None
    """Column with the images. By default, the one that the file's metadata declare, else a struct with `bytes`."""

    execution_fields: ClassVar[frozenset[str]] = frozenset({"paths"})
    order: ClassVar[int] = 7
    extracted_with: ClassVar[str] = "pairmill-huggingface/1"
    offset_unit: ClassVar[str] = "row"
    template: ClassVar[Template | None] = Template(
        summary="A dataset of images in Parquet becomes a dataset and a CLIP model.",
        table="paths = {data}   # files or globs; also hf://datasets/OWNER/NAME\n",
        data="data/*.parquet",
        question="Where are the Parquet files (a file, a glob or hf://datasets/OWNER/NAME)?",
        files=("*.parquet", "*/*.parquet"),
        needs_contact=False,
    )

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        return any(folder.glob("**/*.parquet"))

    @classmethod
    def survey(cls, data: str) -> Survey | None:
        from plugins.own_images.survey import survey_files

        return survey_files(cls, data, "*.parquet")

    def problems(self) -> list[str]:
        from plugins.own_images.hub import PREFIX
        from tasks.files.find import find_files

        here = [path for path in self.paths if not path.startswith(PREFIX)]
        files, found = find_files(here)
        return found or problems_of("paths", lambda: _check_endings(files, (".parquet",)))

    def source_files(self) -> Sequence[SourceFile]:
        from plugins.own_images.hub import PREFIX, find_hub_files
        from tasks.files.find import find_source_files

        files: list[SourceFile] = [*find_source_files([path for path in self.paths if not path.startswith(PREFIX)])]
        for path in self.paths:
            files += find_hub_files(path) if path.startswith(PREFIX) else ()
        if twice := {file.name for file in files if sum(one.name == file.name for one in files) > 1}:
            raise ConfigError(f"source.paths: two files are named {min(twice)!r}; write a [[source]] for each")
        return files

    def read(self, file: SourceFile, rows: PairsWriter) -> None:
        from plugins.own_images.captions import describe
        from plugins.own_images.parquet_images import read_captions

        found = self.rows(rows)
        for number, row, captions in read_captions(file, self.image_column, self.caption_columns):
            rows.count("rows")
            found.add(self.url_of(f"{file.name}/{number}"), number, describe(row, captions))
        found.flush()


def _check_endings(files: Sequence[SourceFile], endings: tuple[str, ...]) -> None:
    wrong = [file.name for file in files if not file.name.lower().endswith(endings)]
    if wrong:
        compressed = "; decompress it" if wrong[0].endswith((".gz", ".zst", ".bz2", ".tgz")) else ""
        raise ConfigError(f"{wrong[0]} does not end in {' or '.join(endings)}{compressed}")
