"""`pairmill init`: ask up to three questions, and write a config and a suite that run."""

import json
import os
import re
import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from cyclopts import Parameter

from dataops.errors import ConfigError
from dataops.escaping import escape_controls
from dataops.plugins import find
from dataops.toml_text import format_value, parse_toml
from flows.commands.options import Json, Yes
from flows.commands.output import console, message, print_json
from flows.config import validate_values
from flows.config_schema import config_schema
from tasks.extract.config import SOURCE_KINDS
from tasks.extract.sources.base import Template

SCHEMA_FILE, CONFIG_FILE, SUITE_FILE = "config.schema.json", "config.toml", "suite.toml"
DIGITS = "evaluation/digits"
"""Folder of the evaluation set that a new project gets."""
CONTACT = "https://example.org/about-our-crawler"
"""Contact of a config until its owner sets one."""
_CONFIG = """#:schema ./{schema}
# {summary}
#
#   pairmill plan config.toml                 what a run makes, and why
#   pairmill run config.toml --until pack     the dataset
#   pairmill run config.toml                  everything
#   pairmill config show config.toml          all keys with their values
#
# Relative paths start at the folder in which you type the command: change to this folder first.
name = {name}

[store]
uri = ".pairmill/store"        # or s3://bucket/prefix

[source]
{source}
[filter]
# languages = ["en"]           # of the caption; without it, all languages
min_words = 2                  # of a caption
# max_caption_count = 100      # drops captions that more images have, such as "image"

[download]
image_size = 224               # pixels of the smaller side
contact = {contact}   # yours: part of the User-Agent header
{connect_to}   # your own server

[curate]
min_side = 64                  # pixels of an image's smaller side

[pack]
shard_size = 10000

[train]
model = "RN-mini-64"           # small, for a first try on a CPU; on a GPU: "ViT-B-32"
epochs = 3                     # 32 for a real model
batch_size = 128               # 1024 or more on a GPU

[evaluate]
suite = "{suite}"           # without it nothing is evaluated

[register]
model_name = {name}
# floors = {{ "digits/top1" = 0.12 }}   # below it, a version does not become the champion

[execution]
# workers = 8                  # default: one per core
"""
_SUITE = """# What the model is measured on. None of these images may be trained on: the evaluation searches for them.
name = {name}

[[task]]
name = "digits"
kind = "classification"        # classification, multilabel, retrieval or association
root = "{digits}"    # relative to this file
split = "test"
description = "scikit-learn's load_digits: 1,797 scans of handwritten digits"

# Your own set is a folder with the images of each class in a folder of its name:
# birds/test/blue tit/1.jpg, birds/test/robin/2.jpg, ...
# [[task]]
# name = "birds"
# kind = "classification"
# root = "birds"
"""


@dataclass(frozen=True)
class Answers:
    """What a new project depends on."""

    kind: str
    """Kind of source."""
    template: Template
    """Of that kind."""
    name: str
    data: str
    """Path or glob of the files, id of a crawl, or start URL."""
    contact: str = CONTACT


def config_text(answers: Answers) -> str:
    """Return the config of a new project."""
    values = {
        "data": format_value([answers.data]),
        "contact": format_value(answers.contact),
        "connect_to": _connect_to(answers),
    }
    return _CONFIG.format(
        schema=SCHEMA_FILE,
        suite=SUITE_FILE,
        summary=answers.template.summary,
        name=format_value(answers.name),
        contact=values["contact"],
        connect_to=values["connect_to"],
        source=f"kind = {format_value(answers.kind)}\n{answers.template.table.format(**values)}",
    )


def _connect_to(answers: Answers) -> str:
    """Return the key `connect_to`: set for a site of this machine, else as a comment."""
    with suppress(ValueError):  # it is no URL, which the check of the config reports
        url = urlsplit(answers.data)
        if url.hostname == "localhost":
            return f'connect_to = {{ "localhost" = "127.0.0.1:{url.port or (443 if url.scheme == "https" else 80)}" }}'
    return '# connect_to = { "localhost" = "127.0.0.1:8000" }'


def suite_text(answers: Answers) -> str:
    """Return the suite of a new project."""
    return _SUITE.format(name=format_value(answers.name), digits=DIGITS)


def command(
    folder: Path = Path(),
    *,
    from_: Annotated[
        str | None, Parameter(name="--from", help="Kind of source: warc, common_crawl, pairs, site or one of a plugin.")
    ] = None,
    data: Annotated[
        str | None, Parameter(help="Path or glob of the files, id of a crawl, or URL at which a crawl begins.")
    ] = None,
    contact: Annotated[
        str | None, Parameter(help="URL or mailto: by which the owner of a site reaches you, for the User-Agent.")
    ] = None,
    yes: Annotated[Yes, Parameter(help="Ask nothing: use defaults. An existing file is never replaced then.")] = False,
    json: Json = False,
) -> int:
    """Write a commented config and an evaluation suite that run, after up to three questions.

    Args:
        folder: Folder of the new project; its name is that of the runs and of the model.
    """
    return init(folder, from_, data, contact, yes=yes, as_json=json)


def init(folder: Path, kind: str | None, data: str | None, contact: str | None, *, yes: bool, as_json: bool) -> int:
    """Write the config, its schema, the suite and an evaluation set into a folder.

    Raises: ConfigError if an answer is missing or wrong, or a file exists and its owner does not agree to replace it.
    """
    asks = sys.stdin.isatty() and not yes and not as_json
    if kind is None:
        if not asks:
            raise ConfigError(f"--from is not set; add --from and one of {', '.join(_kinds())}")
        kind = _ask_kind()
    kind = kind.replace("-", "_")
    template: Template | None = find("sources", kind).template
    if template is None:
        raise ConfigError(f"no config can begin with --from {kind}; add --from and one of {', '.join(_kinds())}")
    if not (asks or yes or (data and (contact or not template.needs_contact))):
        raise ConfigError("there is no terminal to ask on; add --yes, or --data and --contact")
    answers = _complete(folder, kind, template, data, contact, asks=asks)
    texts = {
        CONFIG_FILE: config_text(answers),
        SUITE_FILE: suite_text(answers),
        SCHEMA_FILE: json.dumps(config_schema(), indent=2, ensure_ascii=False) + "\n",
    }
    if problems := validate_values(parse_toml(texts[CONFIG_FILE]))[1]:
        raise ConfigError("\n".join(["these answers give no valid config:", *(f"  {line}" for line in problems)]))
    try:
        written = _write(folder, texts, asks=asks)
        if not (folder / DIGITS).exists():
            from tasks.evaluate.suite_writer import write_digits

            write_digits(folder / DIGITS)
            written.append(DIGITS)
    except OSError as error:
        raise ConfigError(f"{error.filename or folder}: cannot be written: {error.strerror or error}") from error
    return _show(folder, answers, written, as_json=as_json)


def _kinds() -> list[str]:
    """Return the kinds of source with which a config can begin."""
    return [name for name, kind in SOURCE_KINDS.items() if kind.template]


def _ask_kind() -> str:
    kinds = _kinds()
    while (answer := _ask(f"Where do the pairs come from ({', '.join(kinds)})?", kinds[0])) not in kinds:
        pass
    return answer


def _complete(
    folder: Path, kind: str, template: Template, data: str | None, contact: str | None, *, asks: bool
) -> Answers:
    """Return all answers; those that are missing are asked for, or have their defaults."""
    if data is None:
        found = next((pattern for pattern in template.files if any(folder.glob(pattern))), None)
        default = found or template.data
        data = _ask(template.question, default) if asks else default
        is_typed = data != default
    else:
        is_typed = True
    if is_typed and template.files and "://" not in data and not Path(data).expanduser().is_absolute():
        data = os.path.relpath(data, folder)  # typed in the current folder, read from the project's
    if contact is None:
        question = "By which URL or mailto: can the owner of a site reach you?"
        contact = _ask(question, CONTACT) if asks else CONTACT
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.absolute().resolve().name).strip("-._")[:64] or "mine"
    return Answers(kind, template, name, data, contact)


def _ask(question: str, default: str) -> str:
    """Return the answer to a question on the terminal."""
    sys.stderr.write(escape_controls(f"{question} [{default}] "))
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        raise ConfigError("there was no answer; nothing was written")
    return line.strip() or default


def _write(folder: Path, texts: Mapping[str, str], *, asks: bool) -> list[str]:
    """Write the files, and return the names of those that were not there with the same text."""
    changed = [name for name, text in texts.items() if _read(folder / name) != text]
    existing = [folder / name for name in changed if os.path.lexists(folder / name)]
    if existing and not (asks and _ask(f"Replace {', '.join(map(str, existing))} (yes or no)?", "no") in ("y", "yes")):
        names = ", ".join(map(str, existing))
        raise ConfigError(f"{names}: exists; nothing was written. Name another folder, or move the file away")
    folder.mkdir(parents=True, exist_ok=True)
    for name in changed:
        (folder / name).write_text(texts[name], encoding="utf-8")
    return changed


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _show(folder: Path, answers: Answers, written: list[str], *, as_json: bool) -> int:
    """Print what was written, and what to do next."""
    todo = []
    if answers.contact == CONTACT:
        todo.append(f"set `contact` in {folder / CONFIG_FILE}: it is still {CONTACT}")
    if answers.template.files and "://" not in answers.data and not _matches(folder, answers.data):
        todo.append(f"put your files where {folder / CONFIG_FILE} looks for them: {folder / answers.data}")
    change = [] if folder.resolve() == Path.cwd() else [f"cd {shlex.quote(str(folder))}"]
    commands = [*change, f"pairmill plan {CONFIG_FILE}", f"pairmill run {CONFIG_FILE}"]
    if as_json:
        print_json({"folder": str(folder), "written": written, "todo": todo, "next": commands})
        return 0
    out = console()
    for name in written:
        out.print(message(f"wrote {folder / name}"), soft_wrap=True)
    for line in todo:
        out.print(message(f"to do: {line}", "bold"), soft_wrap=True)
    out.print(message("next:"))
    for command in commands:
        out.print(message(f"  `{command}`" if command.startswith("pairmill") else f"  {command}"), soft_wrap=True)
    return 0


def _matches(folder: Path, pattern: str) -> bool:
    if Path(pattern).expanduser().is_absolute():
        return True
    return any(folder.glob(os.path.normpath(pattern))) if not pattern.startswith("..") else True
