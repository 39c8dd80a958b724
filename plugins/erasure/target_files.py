"""Reads the files of `pairmill takedown`: what to remove."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from dataops.errors import ConfigError
from dataops.images.decode import ImageRefused
from dataops.regular_files import read_bytes, read_text
from dataops.trace.targets import Target, image_targets, parse_target

LISTED = 20


def read_targets(path: Path) -> list[Target]:
    """Read the targets of a file: one per line, or a CSV with the columns kind and value.

    In a list of lines, `#` begins a comment. `image:PATH` means an image: its bytes, and all images that look like it.

    Raises: ConfigError with every invalid line.
    """
    try:
        text = read_text(path, "utf-8-sig")
        lines = list((_csv_lines if path.suffix.lower() == ".csv" else _list_lines)(text))
    except (OSError, ValueError, csv.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read as a takedown request: {why}") from error
    targets, problems = list[Target](), list[str]()
    for where, line in lines:
        try:
            targets += _parse(line, path.parent)
        except (ValueError, OSError) as error:
            problems.append(f"  {path}{where}: {error}")
    if problems:
        more = [f"  and {len(problems) - LISTED} more"] if len(problems) > LISTED else []
        head = f"{len(problems)} of {len(lines)} lines are no targets; nothing was done"
        raise ConfigError("\n".join([head, *problems[:LISTED], *more]))
    if not targets:
        raise ConfigError(f"{path}: names nothing to take down")
    return list(dict.fromkeys(targets))


def _parse(text: str, folder: Path) -> list[Target]:
    if not text.startswith("image:"):
        return [parse_target(text)]
    name = text.removeprefix("image:").strip()
    try:
        return image_targets(read_bytes(folder / name))
    except ImageRefused as error:
        raise ValueError(f"{name}: {error}") from error


def _list_lines(text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        target = re.sub(r"(^|\s)#.*", "", line).strip()
        if target:
            yield f":{number}", target


def _csv_lines(text: str) -> Iterator[tuple[str, str]]:
    reader = csv.DictReader(io.StringIO(text))
    if not {"kind", "value"} <= set(reader.fieldnames or ()):
        raise ValueError("its first line must name the columns kind and value, separated by a comma")
    for row in reader:
        kind, value = (row["kind"] or "").strip(), (row["value"] or "").strip()
        yield f":{reader.line_num}", f"{kind}:{value}" if kind else value
