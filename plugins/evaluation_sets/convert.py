"""`pairmill datasets convert`: multilingual sets in the layouts in which they are published, into those of evaluation."""

import ast
import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from cyclopts import Parameter

from dataops.errors import ConfigError, ContractError, describe_error, writing
from dataops.images.decode import ImageRefused, decode_pixels
from flows.commands.output import console
from tasks.evaluate.suite_writer import Member, write_shard
from training.evaluation.samples import IMAGE_SUFFIXES
from training.evaluation.sets import CLASS_NAMES, TEMPLATES, EvalSet

Samples = Iterable[dict[str, bytes]]
SUBSET = "Subset"
PHOTOGRAPH_COLOURS = 0.4
"""Colours of a photograph, as a share of its pixels; a drawing has fewer."""


def convert(
    kind: Literal["xm3600", "babel-imagenet", "cvqa", "stamps"],
    source: Path,
    output: Path,
    *,
    languages: Annotated[
        tuple[str, ...], Parameter(help="Codes of languages; of cvqa their names. Default: all.")
    ] = (),
    images: Annotated[
        Path | None, Parameter(help="For babel-imagenet: ImageNet's validation set in CLIP_benchmark's layout.")
    ] = None,
) -> int:
    """Write a published multilingual set as one evaluation set a language.

    Args:
        kind: xm3600: captions.jsonl and images/. babel-imagenet: babel_imagenet.json and nllb_dist13b_prompts.json. cvqa:
            the Parquet files of the dataset on the Hub. stamps: /usr/share/tuxpaint/stamps of Debian's package
            tuxpaint-stamps-default, of which the photographs are taken.
        source: Folder with these files.
        output: Folder that gets a folder for each language.
    """

    def choose(codes: Iterable[str]) -> list[str]:
        known = {code.lower(): code for code in sorted(codes)}
        if absent := [one for one in languages if one.lower() not in known]:
            raise ConfigError(f"{source}: no {kind} in {absent}; --languages names some of {', '.join(known)}")
        return [code for lower, code in known.items() if not languages or lower in map(str.lower, languages)]

    if kind == "babel-imagenet":
        if images is None:
            raise ConfigError("babel-imagenet has only names: --images names ImageNet's validation set")
        protocol, found = "classification", _read_babel(source, EvalSet(images, "test", "classification"), choose)
    else:
        protocol, read = _READERS[kind]
        found = read(source, choose)
    try:
        with writing(output):
            written = [_write(output, language, protocol, samples, lists) for language, samples, lists in found]
            for part, folder, _ in written:  # all or none, so that the same command repeats a failed one
                part.rename(folder)
    except (AttributeError, LookupError, MemoryError, RecursionError, SyntaxError, TypeError, ValueError) as error:
        problem = describe_error(error).partition("\n")[0]
        raise ContractError(f"{source}: not in the layout of {kind} ({problem})") from error
    if not written:
        raise ConfigError(f"{source}: no {kind}")
    console().write(f"{len(written)} sets of {sum(images for *_, images in written):,} images in {output}")
    return 0


def _write(
    output: Path, language: str, kind: str, samples: Samples, lists: dict[str, list[str]]
) -> tuple[Path, Path, int]:
    """Write a set under another name; return its folder, the one that it gets, and the number of its images.

    Raises: ValueError if the name of the language leads to another folder.
    """
    if language in ("", "..") or Path(language).name != language or not language.isprintable():
        raise ValueError(f"{language!r} is no code of a language")
    folder = output / language
    if folder.exists():
        raise ConfigError(f"{folder} is there already; remove it, or name another folder")
    part, images = folder.with_name(f"{folder.name}.part"), Counter[str]()

    def list_members() -> Iterator[Member]:
        for number, one in enumerate(samples):
            images["all"] += 1
            yield from ((f"{number:08d}.{suffix}", data) for suffix, data in one.items())

    shutil.rmtree(part, ignore_errors=True)
    write_shard(part, kind, list_members())
    for name, lines in lists.items():
        (part / name).write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return part, folder, images.total()


Sets = Iterator[tuple[str, Samples, dict[str, list[str]]]]
Choose = Callable[[Iterable[str]], list[str]]
"""Returns those of the codes of a set that the command names. Raises: ConfigError if it names others."""


def _read_xm3600(source: Path, choose: Choose) -> Sets:
    """Yield a retrieval set a language. Source: Thapliyal et al. 2022, "Crossmodal-3600", captions.jsonl of its release."""
    rows = _parse(source / "captions.jsonl", lambda text: [json.loads(line) for line in text.splitlines()])
    for code in choose({name for row in rows for name in row if isinstance(row[name], dict)}):
        members = (
            {
                "jpg": _read(source / "images" / f"{row['image/key']}.jpg"),
                "txt": "\n".join(map(_on_one_line, [texts] if isinstance(texts, str) else texts)).encode(),
            }
            for row in rows
            if (texts := row.get(code, {}).get("caption"))
        )
        yield code, members, {}


def _read_babel(source: Path, imagenet: EvalSet, choose: Choose) -> Sets:
    """Yield a classification set a language: the classes that it names. Source: Geigle et al. 2024, "Babel-ImageNet"."""
    names = _parse(source / "babel_imagenet.json", json.loads)
    prompts = _parse(source / "nllb_dist13b_prompts.json", json.loads)
    for code in choose(names):
        numbers, labels = names[code]
        label_of = {number: label for label, number in enumerate(numbers)}
        members = (
            {_suffix(sample.image): sample.image, "cls": str(label_of[sample.label]).encode()}
            for sample in imagenet.samples()
            if sample.label in label_of
        )
        templates = [prompt.replace("{}", "{c}") for prompt in prompts[code]]
        yield code.lower(), members, {CLASS_NAMES: labels, TEMPLATES: templates}


def _read_cvqa(source: Path, choose: Choose) -> Sets:
    """Yield a choice set a language: the question followed by each answer. Source: Romero et al. 2024, "CVQA"."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = ["image", "Question", "Options", "Label", SUBSET]
    tables = [pq.read_table(path, columns=columns) for path in sorted(source.rglob("*.parquet"))]
    if not tables:
        raise ConfigError(f"{source}: no Parquet file")
    rows = pa.concat_tables(tables).to_pylist()
    if any(row["Label"] is None or not 0 <= row["Label"] < len(row["Options"]) for row in rows):
        raise ContractError(f"{source}: Label is missing, or no number of an option; it is not in all releases")
    spoken = [str(ast.literal_eval(row[SUBSET])[0]).lower().replace(" ", "-") for row in rows]
    for language in choose(spoken):
        yield language, (_choices(row) for row, one in zip(rows, spoken, strict=True) if one == language), {}


def _choices(row: dict[str, Any]) -> dict[str, bytes]:
    options = [_on_one_line(f"{row['Question']} {option}") for option in row["Options"]]
    ordered = dict.fromkeys([options[row["Label"]], *options])  # an answer that is named twice is one caption
    return {_suffix(row["image"]["bytes"]): row["image"]["bytes"], "txt": "\n".join(ordered).encode()}


def _on_one_line(text: str) -> str:
    """Return a caption as the set's files have it, one in a line."""
    return " ".join(text.split())


def _read_stamps(source: Path, choose: Choose) -> Sets:
    """Yield a classification set a language: the photographs that it names, each name a class.

    NAME.txt beside NAME.png has the English name in its first line, and others such as `de.utf8=` below (Tux Paint,
    docs/EXTENDING.html). Letters and digits (symbols/) and drawings are left out.
    """
    paths = [path for path in sorted(source.rglob("*.png")) if "symbols" not in path.parts]
    named = [(_read(path), _stamp_names(path.with_suffix(".txt"))) for path in paths if _is_photograph(path)]
    for code in choose({code for _, names in named for code in names}):
        labels = sorted({names[code] for _, names in named if code in names})
        members = (
            {"png": image, "cls": str(labels.index(names[code])).encode()} for image, names in named if code in names
        )
        yield code, members, {CLASS_NAMES: labels, TEMPLATES: ["{c}"]}


def _stamp_names(path: Path) -> dict[str, str]:
    english, *others = _read(path).decode("utf-8", "replace").splitlines() or [""]
    lines = itertools.chain([("en", english)], (line.split(".utf8=", 1) for line in others if ".utf8=" in line))
    return {code: name.strip() for code, name in lines if name.strip()}


def _is_photograph(path: Path) -> bool:
    if not path.with_suffix(".txt").exists():  # a mirrored copy
        return False
    try:
        pixels = decode_pixels(_read(path)).reshape(-1, 3)
    except ImageRefused as refused:
        raise ContractError(f"{path}: {refused}") from refused
    inside = pixels[(pixels != 255).any(axis=1)]
    return len(np.unique(inside, axis=0)) > PHOTOGRAPH_COLOURS * len(inside)


_READERS: dict[str, tuple[str, Callable[[Path, Choose], Sets]]] = {
    "xm3600": ("retrieval", _read_xm3600),
    "cvqa": ("choice", _read_cvqa),
    "stamps": ("classification", _read_stamps),
}


def _suffix(image: bytes) -> str:
    starts = {b"\x89PNG": "png", b"RIFF": "webp"}
    return starts.get(image[:4], IMAGE_SUFFIXES[1])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ContractError(f"{path}: {error.strerror}") from error


def _parse(path: Path, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(_read(path).decode())
    except ValueError as error:
        raise ContractError(f"{path}: no JSON in UTF-8 ({error})") from error
