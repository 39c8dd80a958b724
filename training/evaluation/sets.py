"""Labelled images in CLIP_benchmark's layout, read in a fixed order. No torch here: the orchestrator checks suites.

Two layouts, detected by the files in the folder:

webdataset     <root>/classnames.txt                          one class a line; line i is label i
               <root>/zeroshot_classification_templates.txt   one prompt a line, `{c}` stands for the class
               <root>/dataset_type.txt                        optional: `retrieval`
               <root>/<split>/nshards.txt                     how many shards
               <root>/<split>/0.tar, 1.tar, ...               {key}.png|jpg|jpeg|webp with {key}.cls (label as text)
                                                              or, for retrieval, {key}.txt (captions, one a line),
                                                              or, for choice, the same: the right one first,
                                                              or, for multilabel, {key}.npy (0 or 1 for each class)
                                                              or, for association, nothing more:
               <root>/associations.jsonl                      one object a line: cue, candidates and associations (keys)
                                                              beside .cls a {key}.npy may hold facts, one number a column:
                                                              region, income, ... (as DataComp's WILDS and fairness sets)
image folder   <root>/<split>/<class>/*.png|jpg|jpeg|webp     label i is folder i in sorted order, its name the class
               <root>/classnames.txt                          optional: nicer names, in the order of the folders
               <root>/zeroshot_classification_templates.txt   optional: else `a photo of a {c}.`

An image that cannot be decoded is a counted row. A wrong shard, label or class list is an error,
since an accuracy over the readable part would be another number under the same name.

Source: CLIP_benchmark, README "Creating a webdataset" and clip_benchmark/datasets/builder.py (build_wds_dataset);
grouping of members: webdataset, where the key ends at the first dot of the file's name. Facts in .npy, and the lines
`gender:female` of class names and prompts: DataComp, eval_utils/wilds_eval.py and fairness_eval.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from dataops.config import FrozenModel
from dataops.errors import ContractError
from dataops.regular_files import check_regular, read_bytes, read_text
from training.evaluation.samples import (
    IMAGE_SUFFIXES,
    Sample,
    parse_captions,
    parse_label,
    parse_labels,
    parse_numbers,
    read_members,
    select_label,
)

Kind = Literal["classification", "multilabel", "retrieval", "association", "choice"]
Layout = Literal["webdataset", "folder"]

CLASS_NAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
DATASET_TYPE = "dataset_type.txt"
SHARD_COUNT = "nshards.txt"
ASSOCIATIONS = "associations.jsonl"
DEFAULT_TEMPLATE = "a photo of a {c}."
"""Prompt of image folders without a list of prompts. Source: Radford et al. 2021, section 3.1.4."""


class Cue(FrozenModel):
    """A word, the keys of the images that may belong to it, and of those that do."""

    cue: str = Field(min_length=1)
    candidates: tuple[str, ...]
    associations: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _of_the_candidates(self) -> "Cue":
        if not {*self.associations} <= {*self.candidates} or len({*self.candidates}) < len(self.candidates):
            raise ValueError("associations must be some of the candidates, and no candidate may appear twice")
        return self


@dataclass(frozen=True)
class EvalSet:
    """A labelled set of images on local disk."""

    root: Path
    split: str
    kind: Kind
    objective: str = ""
    """Prefix, before a colon, of the class names and prompts that count in a set with several questions per image."""
    label_column: int | None = None
    """Column of the label in {key}.npy, if {key}.cls does not hold it."""
    with_facts: bool = False
    """True if each sample must have facts."""

    @property
    def folder(self) -> Path:
        """Folder of the split."""
        return self.root / self.split

    @property
    def has_classes(self) -> bool:
        """Return whether there is a list of classes, and of prompts."""
        return self.kind in ("classification", "multilabel")

    def layout(self) -> Layout:
        """Detect the layout."""
        if not self.folder.is_dir():
            raise ContractError(f"{self.folder if self.root.is_dir() else self.root}: no such folder")
        if (self.folder / SHARD_COUNT).is_file():
            return "webdataset"
        if any(self.folder.glob("*.tar")):
            raise ContractError(f"{self.folder / SHARD_COUNT}: missing; it must hold the number of shards")
        if not self.has_classes:
            raise ContractError(
                f"{self.folder / SHARD_COUNT}: missing; {self.kind} needs webdataset shards (an image folder has classes)"
            )
        return "folder"

    def shards(self) -> list[Path]:
        """Return the shards of a webdataset split, in order."""
        path = self.folder / SHARD_COUNT
        text = _text(path).strip()
        if not (text.isascii() and text.isdigit() and len(text) < 7 and int(text) > 0):
            raise ContractError(f"{path}: {text[:40]!r} is not a number of shards (a whole number, 1 to 999999)")
        shards = [self.folder / f"{i}.tar" for i in range(int(text))]
        missing = [s.name for s in shards if not s.is_file()]
        if missing:
            raise ContractError(f"{path} names {len(shards)} shards, but {', '.join(missing[:5])} is missing")
        return shards

    def class_folders(self) -> list[Path]:
        """Return the class folders of an image folder, sorted by name: the order of the labels."""
        folders = sorted(p for p in self.folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        if not folders:
            raise ContractError(f"{self.folder}: neither shards with {SHARD_COUNT} nor a folder per class")
        return folders

    def class_names(self) -> list[str]:
        """Return one name per label."""
        path = self.root / CLASS_NAMES
        folder = self.layout() == "folder"
        if folder and not path.is_file():
            return [p.name for p in self.class_folders()]
        names = self._select_objective(_lines(path), path)
        if folder and len(names) != len(self.class_folders()):
            raise ContractError(
                f"{path} has {len(names)} names, {self.folder} has {len(self.class_folders())} class folders"
            )
        return names

    def templates(self) -> list[str]:
        """Return the prompts, each with `{c}` in place of the class."""
        path = self.root / TEMPLATES
        if self.layout() == "folder" and not path.is_file():
            return [DEFAULT_TEMPLATE]
        templates = self._select_objective(_lines(path), path)
        if bad := [t for t in templates if "{c}" not in t]:
            raise ContractError(f"{path}: {bad[0]!r} has no {{c}} in place of the class")
        return templates

    def cues(self) -> list[Cue]:
        """Return the cues of an association set, in order."""
        path = self.root / ASSOCIATIONS
        cues = []
        for number, line in enumerate(_lines(path), 1):
            try:
                cues.append(Cue.model_validate_json(line))
            except ValidationError as error:
                problem = error.errors()[0]
                place = [f"{path}: line {number}", *map(str, problem["loc"])]
                raise ContractError(": ".join([*place, problem["msg"]])) from error
        return cues

    def _select_objective(self, lines: list[str], path: Path) -> list[str]:
        """Return the lines of this set's objective, or all lines if it has none."""
        if not self.objective:
            return lines
        prefix = f"{self.objective}:"
        selected = [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]
        if not selected:
            raise ContractError(f"{path}: no line begins with {prefix!r}")
        return selected

    def files(self) -> list[Path]:
        """Return all files that decide a result, sorted: those that a digest of the set must cover."""
        names = (CLASS_NAMES, TEMPLATES, DATASET_TYPE, *([ASSOCIATIONS] if self.kind == "association" else []))
        found = [path for path in map(self.root.joinpath, names) if path.is_file()]
        if self.layout() == "webdataset":
            return [*found, self.folder / SHARD_COUNT, *self.shards()]
        return [*found, *(image for folder in self.class_folders() for image in _images(folder))]

    def empty_folders(self) -> list[str]:
        """Return the class folders without an image, which shift the labels after them."""
        folders = self.class_folders() if self.layout() == "folder" else []
        return [f"{self.split}/{folder.name}/" for folder in folders if not _images(folder)]

    def problems(self) -> list[str]:
        """Return all that is wrong with the layout, without reading the samples."""
        problems: list[str] = []
        try:
            checks = [self.shards if self.layout() == "webdataset" else self.class_folders]
        except ContractError as error:
            return [str(error)]
        checks += [self.class_names, self.templates] if self.has_classes else []
        checks += [self.cues] if self.kind == "association" else []
        for check in checks:
            try:
                check()
            except ContractError as error:
                problems.append(str(error))
        declared = self.root / DATASET_TYPE
        if declared.is_file() and (found := read_text(declared, errors="replace").strip().lower()) != self.kind:
            problems.append(f"{declared} has {found[:40]!r}, but `kind` of the suite is {self.kind!r}")
        return problems

    def samples(self) -> Iterator[Sample]:
        """Yield every sample, shard by shard in the order of the tar, or class by class in the order of the names.

        Raises: ContractError, naming file and member, on a truncated or corrupt shard, a sample without image, label
            or caption, a label out of range, or an empty set.
        """
        classes = len(self.class_names()) if self.has_classes else 0
        empty = True
        for sample in self._shard_samples(classes) if self.layout() == "webdataset" else self._folder_samples():
            empty = False
            yield sample
        if empty:
            raise ContractError(f"{self.folder}: holds no sample")

    def _folder_samples(self) -> Iterator[Sample]:
        for label, folder in enumerate(self.class_folders()):
            for path in _images(folder):
                yield Sample(path.relative_to(self.folder).as_posix(), read_bytes(path), label)

    def _shard_samples(self, classes: int) -> Iterator[Sample]:
        for shard in self.shards():
            seen: set[str] = set()
            for key, group in groupby(read_members(shard), key=lambda member: member[0]):
                if key in seen:
                    raise ContractError(f"{shard}: sample {key!r} appears twice")
                seen.add(key)
                fields: dict[str, bytes] = {}
                for _, suffix, data in group:
                    if suffix in fields:
                        raise ContractError(f"{shard}: {key}.{suffix} appears twice")
                    fields[suffix] = data
                yield self._sample(shard, key, fields, classes)

    def _sample(self, shard: Path, key: str, fields: dict[str, bytes], classes: int) -> Sample:
        images = [fields[s] for s in IMAGE_SUFFIXES if s in fields]
        from_facts = self.kind == "classification" and self.label_column is not None
        member = {"multilabel": "npy", "retrieval": "txt", "choice": "txt", "association": ""}.get(
            self.kind, "npy" if from_facts else "cls"
        )
        missing = ({member, *(["npy"] if self.with_facts else [])} - {""}) - fields.keys()
        if len(images) != 1 or missing:
            have = ", ".join(sorted(fields))
            more = f" and {key}.{min(missing, default=member)}" if member else ""
            needs = f"one image ({'|'.join(IMAGE_SUFFIXES)}){more}"
            raise ContractError(f"{shard}: sample {key!r} needs {needs}; it has {have}")
        where = f"{shard}: {key}.{member}"
        if self.kind == "association":
            return Sample(key, images[0])
        if self.kind in ("retrieval", "choice"):
            return Sample(key, images[0], captions=parse_captions(fields["txt"], where))
        numbers = parse_numbers(fields["npy"], f"{shard}: {key}.npy") if from_facts or self.with_facts else ()
        if self.kind == "multilabel":
            return Sample(key, images[0], labels=parse_labels(fields["npy"], where, classes), facts=numbers)
        if from_facts:
            return Sample(key, images[0], select_label(numbers, self.label_column or 0, where, classes), facts=numbers)
        return Sample(key, images[0], parse_label(fields["cls"], where, classes), facts=numbers)


def _images(folder: Path) -> list[Path]:
    found = [p for p in folder.iterdir() if p.suffix[1:].lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
    for path in found:
        try:
            check_regular(path)
        except OSError as error:
            raise ContractError(f"{path}: cannot be read ({error.strerror or error})") from error
    return sorted(found)


def _text(path: Path) -> str:
    try:
        return read_text(path, "utf-8-sig")
    except FileNotFoundError as error:
        raise ContractError(f"{path}: missing; the set needs this file (docs/evaluate/evaluation.md)") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ContractError(f"{path}: cannot be read as UTF-8 text ({error})") from error


def _lines(path: Path) -> list[str]:
    """Return stripped lines. A blank line between others would shift every label after it, so it is an error."""
    lines = [line.strip() for line in _text(path).rstrip().split("\n")]
    if not all(lines):
        what = "is empty" if lines == [""] else f"has a blank line {lines.index('') + 1}"
        raise ContractError(f"{path}: {what}")
    return lines
