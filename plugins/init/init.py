"""`pairmill init`: ask up to three questions, and write a config and a suite that run."""

import glob
import json as json_
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from cyclopts import Parameter

from dataops.command_name import command_name
from dataops.errors import ConfigError, PairmillError
from dataops.escaping import escape_controls
from dataops.plugins import find
from dataops.toml_text import format_value, parse_toml
from flows.commands.options import Json, Yes
from flows.commands.output import console, print_json
from flows.config import validate_values
from plugins.init.schema import config_schema
from tasks.extract.config import SOURCE_KINDS
from tasks.extract.sources.base import Source, Survey, Template

SCHEMA_FILE, CONFIG_FILE, SUITE_FILE = "config.schema.json", "config.toml", "suite.toml"
_CONTACT = re.compile(r"https?://[^\s/]\S*|mailto:[^\s@]+@[^\s@]+")
DIGITS, HELD_OUT = "evaluation/digits", "evaluation/own"
"""Folders of the evaluation sets of which a new project gets one: the second if there are images to hold out."""
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
# Relative paths start at the folder of this file.
name = {name}

[store]
uri = ".pairmill/store"        # or s3://bucket/prefix

[source]
{source}
[filter]
# languages = ["en"]           # of the caption; without it, all languages
min_words = {min_words}                  # of a caption
{captions_per_image}# max_caption_count = 100      # drops captions that more images have, such as "image"

[download]
image_size = {image_size:<16}   # pixels of the smaller side
{hosts}
[curate]
min_side = {min_side:<18}   # pixels of an image's smaller side
{overlap}
[pack]
shard_size = 10000

[train]
{captions}{train}

[evaluate]
suite = "{suite}"           # without it nothing is evaluated

[register]
model_name = {name}
# floors = {{ {floor} }}   # below it, a version does not become the champion

[execution]
# workers = 8                  # default: one per core
"""
_HOSTS = """contact = {contact}   # yours: part of the User-Agent header
{connect_to}   # your own server
"""
_TRAIN = """model = "RN-mini-64"           # small, for a first try on a CPU; on a GPU: "ViT-B-32"
epochs = 3                     # 32 for a real model
batch_size = 128               # 1024 or more on a GPU"""
_FITTED = """# For {pairs:,} pairs: {steps:,} steps, {rate}.
model = {model}
epochs = {epochs}
batch_size = {batch_size}"""
_OVERLAP = f"""
[curate.overlap]               # images of the evaluation, and their copies, are not trained on
paths = ["{HELD_OUT}"]
"""
_SUITE = """# What the model is measured on. None of these images may be trained on: the evaluation searches for them.
name = {name}

[[task]]
{task}

# Your own set is a folder with the images of each class in a folder of its name:
# birds/test/blue tit/1.jpg, birds/test/robin/2.jpg, ...
# [[task]]
# name = "birds"
# kind = "classification"      # classification, multilabel, retrieval, association or choice
# root = "birds"               # relative to this file
"""
_DIGITS_TASK = f"""name = "digits"
kind = "classification"
root = "{DIGITS}"
split = "test"
description = "scikit-learn's load_digits: 1,797 scans of handwritten digits\""""
_HELD_OUT_TASK = f"""name = "own"
kind = "retrieval"
root = "{HELD_OUT}"
split = "test"
description = "your own images, held out: each caption finds its image, and each image its caption\""""


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
    survey: Survey | None = None
    """What was found in the data, with paths relative to the project's folder."""

    @property
    def requests_images(self) -> bool:
        """Whether images are requested from hosts."""
        return SOURCE_KINDS[self.kind].model_construct().requests_images


MIN_STEPS = 300
"""Steps that a small training is given: with fewer, a model learns next to nothing."""


def fit_training(pairs: int) -> dict[str, Any]:
    """Return model, epochs and batch size for a number of pairs, and the steps that they take."""
    batch = min(max(1 << (pairs // 8).bit_length() - 1 if pairs >= 8 else 2, 2), 1024)
    batch = max(batch, min(32, max(pairs, 2)))
    steps = -(-pairs // batch)
    epochs = min(max(-(-MIN_STEPS // steps), 3), 100)
    model = "RN-mini-64" if pairs < 100_000 else "ViT-B-32"
    rate = "which a CPU does" if pairs < 100_000 else "which needs a GPU"
    return {
        "pairs": pairs,
        "model": format_value(model),
        "epochs": epochs,
        "batch_size": batch,
        "steps": epochs * steps,
        "rate": rate,
    }


def config_text(answers: Answers) -> str:
    """Return the config of a new project."""
    values = {
        "data": format_value([answers.data]),
        "contact": format_value(answers.contact),
        "connect_to": _connect_to(answers),
    }
    survey = answers.survey or Survey({})
    small = sorted(survey.sides)[len(survey.sides) // 20] if survey.sides else 64
    middle = sorted(survey.sides)[len(survey.sides) // 2] if survey.sides else 224
    more = min(survey.captions_per_image, 5)
    few_words = sum(" " not in caption for caption in survey.captions) > len(survey.captions) / 50
    found = "".join(f"# {line}\n" for line in survey.found)
    keys = "".join(f"{key} = {format_value(value)}\n" for key, value in survey.keys.items())
    if survey.keys and (answers.kind != answers.name):
        keys = f"name = {format_value(_source_name(answers))}   # in the URLs of the images: keep it\n{keys}"
    return _CONFIG.format(
        schema=SCHEMA_FILE,
        suite=SUITE_FILE,
        summary=answers.template.summary,
        name=format_value(answers.name),
        hosts=_HOSTS.format(**values)
        if answers.requests_images
        else "# images are read where they lie: no host is asked\n",
        source=f"{found}kind = {format_value(answers.kind)}\n{keys or answers.template.table.format(**values)}",
        min_words=1 if few_words else 2,
        captions_per_image=f"captions_per_image = {more}\n" if more > 1 else "",
        captions="captions = {}                  # each visit of an image draws one of its captions\n"
        if more > 1
        else "",
        image_size=min(224, middle),
        min_side=min(64, small),
        floor='"own/mean_R_at_1" = 0.2' if survey.held_out else '"digits/top1" = 0.12',
        overlap=_OVERLAP if survey.held_out else "",
        train=survey.train or (_TRAIN if survey.pairs is None else _FITTED.format(**fit_training(survey.pairs))),
    )


def _source_name(answers: Answers) -> str:
    """Return a name of the source, by the last folder of its data."""
    text = next((str(value) for value in (answers.data, answers.name)), "")
    parts = [re.sub(r"[^A-Za-z0-9_-]+", "-", part).strip("-") for part in text.split("/") if "*" not in part]
    named = [part[:40] for part in parts if re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", part)]
    return named[-1] if named else "own"


def _describe_languages(captions: Sequence[str]) -> str:
    """Return the languages of captions that at least a tenth of them have."""
    import polars as pl

    from tasks.filter.config import FilterConfig
    from tasks.filter.language import detect_languages

    rows = pl.DataFrame({"caption": captions[:2_000], "page_url": None, "page_language": None})
    rows = rows.with_columns(pl.col("page_url", "page_language").cast(pl.String))
    counts = Counter(detect_languages(rows, FilterConfig())["language"].to_list()).most_common()
    shares = [
        f"{name or 'unknown'} {number / rows.height:.0%}" for name, number in counts if number >= rows.height / 10
    ]
    return f"detected languages: {', '.join(shares) or 'many'}"


def _connect_to(answers: Answers) -> str:
    """Return the key `connect_to`: set for a site of this machine, else as a comment."""
    with suppress(ValueError):  # it is no URL, which the check of the config reports
        url = urlsplit(answers.data)
        if url.hostname == "localhost":
            return f'connect_to = {{ "localhost" = "127.0.0.1:{url.port or (443 if url.scheme == "https" else 80)}" }}'
    return '# connect_to = { "localhost" = "127.0.0.1:8000" }'


def suite_text(answers: Answers) -> str:
    """Return the suite of a new project."""
    task = _HELD_OUT_TASK if answers.survey and answers.survey.held_out else _DIGITS_TASK
    return _SUITE.format(name=format_value(answers.name), task=task)


def init(
    folder: Path = Path(),
    *,
    kind: Annotated[
        str | None,
        Parameter(
            name="--from", help="Kind of source: folder, webdataset, huggingface, warc, common_crawl, pairs or site."
        ),
    ] = None,
    data: Annotated[
        str | None, Parameter(help="Folder, file or glob, id of a crawl, or URL at which a crawl begins.")
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
    asks = sys.stdin.isatty() and not yes and not json
    if contact is not None and not _CONTACT.fullmatch(contact):
        raise ConfigError(f"--contact {contact!r}: is no URL of a page (https://...) and no mailto: address")
    if data is not None and not data.strip():
        raise ConfigError("--data is empty; name the folder, files or URL of your data, or leave it out")
    folder, kind, data = _find_data(folder, kind, data)
    if kind is None:
        if not asks:
            why = "" if data is None else f", and {data!r} is no folder"
            raise ConfigError(f"--from is not set{why}; add --from and one of {', '.join(_kinds())}")
        kind = _ask_kind()
    kind = kind.replace("-", "_")
    template: Template | None = find("sources", kind).template
    if template is None:
        raise ConfigError(f"no config can begin with --from {kind}; add --from and one of {', '.join(_kinds())}")
    if data is None and _is_surveyed(SOURCE_KINDS[kind]):
        if not asks:
            raise ConfigError(f"--data is not set; add --data and the place of the images, such as {template.data}")
        data = _ask(template.question, template.data)
    survey = _survey(folder, kind, data)
    if not (asks or yes or (data and (contact or not template.needs_contact))):
        raise ConfigError("there is no terminal to ask on; add --yes, or --data and --contact")
    answers = replace(_complete(folder, kind, template, data, contact, asks=asks), survey=survey)
    texts = {
        CONFIG_FILE: config_text(answers),
        SUITE_FILE: suite_text(answers),
        SCHEMA_FILE: json_.dumps(config_schema(), indent=2, ensure_ascii=False) + "\n",
    }
    if problems := validate_values(parse_toml(texts[CONFIG_FILE]), folder)[1]:
        raise ConfigError("\n".join(["these answers give no valid config:", *(f"  {line}" for line in problems)]))
    try:
        written = _write(folder, texts, asks=asks)
        evaluated = HELD_OUT if survey and survey.held_out else DIGITS
        if not (folder / evaluated).exists():
            from plugins.init.digits import write_digits
            from tasks.evaluate.suite_writer import write_shard

            if survey and survey.held_out:
                write_shard(folder / HELD_OUT, "retrieval", survey.held_out)
            else:
                write_digits(folder / DIGITS)
            written.append(evaluated)
    except OSError as error:
        raise ConfigError(f"{error.filename or folder}: cannot be written: {error.strerror or error}") from error
    return _show(folder, answers, written, as_json=json)


def _find_data(folder: Path, kind: str | None, data: str | None) -> tuple[Path, str | None, str | None]:
    """Return the folder of the project, the kind and the data: a folder of data tells its kind, and may stand for --data.

    Raises: ConfigError if --data is a folder without data of a known kind.
    """
    looking = {name: source for name, source in SOURCE_KINDS.items() if _is_surveyed(source)}
    if kind in looking and data is None and folder != Path() and folder.is_dir() and looking[kind].recognises(folder):
        folder, data = Path(), str(folder)
    if kind is None and data is not None and data.startswith("hf://"):
        kind = "huggingface"
    if kind is None and data is not None and Path(data).expanduser().is_dir():
        kind = next((name for name, source in looking.items() if source.recognises(Path(data).expanduser())), None)
        if kind is None:
            raise ConfigError(
                f"--data {data}: the folder has no images, no .tar and no .parquet; name its files and --from"
            )
    return folder, kind, data


def _is_surveyed(source: type[Source]) -> bool:
    """Return whether a kind of source looks into the data of a new project."""
    return source.recognises.__func__ is not Source.recognises.__func__


def _survey(folder: Path, kind: str, data: str | None) -> Survey | None:
    """Return what is found in the data; paths are then relative to the project's folder. None where nobody looks.

    Raises: ConfigError if there is no such data, it is of another kind, or it contains the project.
    """
    source = SOURCE_KINDS[kind]
    if data is None or ("://" in data and not data.startswith(("s3://", "hf://"))):
        return None
    template = source.template
    path = Path(data).expanduser()
    if template is not None and template.files and "://" not in data:
        if path.is_dir() and not _is_surveyed(source):
            kinds = [name for name, one in SOURCE_KINDS.items() if one.recognises(path)]
            remedy = f"add --from {kinds[0]}" if kinds else f"name its files, such as {path}/{Path(template.data).name}"
            raise ConfigError(f"--data {data}: is a folder, and --from {kind} reads files; {remedy}")
        if not path.exists() and not glob.glob(str(path), recursive=True):  # noqa: PTH207  as the source finds its files
            raise ConfigError(f"--data {data}: there is no such file or folder (looked in {Path.cwd()})")
    try:
        found = source.survey(str(path) if "://" not in data else data)
    except PairmillError as error:
        raise ConfigError(f"--data {data}: {str(error).replace('source.', '')}") from error
    if found is None:
        return None
    if found.captions:
        found = replace(found, found=(*found.found, _describe_languages(found.captions)))
    if path.is_dir() and folder.resolve().is_relative_to(path.resolve()):
        name = path.resolve().name or "images"
        raise ConfigError(
            f"--data {data}: the project would lie in the folder of its images; "
            f"write it beside: `pairmill init {path.resolve().parent / f'{name}-clip'} --from {kind} --data {data}`"
        )
    return replace(
        found,
        keys={key: _rebase(value, folder) for key, value in found.keys.items() if key != "captions"}
        | {key: value for key, value in found.keys.items() if key == "captions"},
    )


def _rebase(value: object, folder: Path) -> object:
    """Return a path, or a list of paths, relative to the project's folder."""
    if isinstance(value, list):
        return [_rebase(one, folder) for one in value]
    text = str(value)
    return text if "://" in text or Path(text).is_absolute() else os.path.relpath(text, folder)


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
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.absolute().resolve().name).strip("-._")[:64] or "mine"
    answers = Answers(kind, template, name, data, contact or CONTACT)
    if contact is None and asks and answers.requests_images:
        answers = replace(answers, contact=_ask("By which URL or mailto: can the owner of a site reach you?", CONTACT))
    return answers


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
    if answers.contact == CONTACT and answers.requests_images:
        todo.append(f"set `contact` in {folder / CONFIG_FILE}: it is still {CONTACT}")
    if (
        answers.survey is None
        and answers.template.files
        and "://" not in answers.data
        and not _matches(folder, answers.data)
    ):
        todo.append(f"put your files where {folder / CONFIG_FILE} looks for them: {folder / answers.data}")
    change = [] if folder.resolve() == Path.cwd() else [f"cd {shlex.quote(str(folder))}"]
    name = command_name_elsewhere() if change else command_name()
    commands = [*change, f"{name} plan {CONFIG_FILE}", f"{name} run {CONFIG_FILE}"]
    if as_json:
        found = [*answers.survey.found] if answers.survey else []
        print_json({"folder": str(folder), "found": found, "written": written, "todo": todo, "next": commands})
        return 0
    out = console()
    for number, line in enumerate(answers.survey.found if answers.survey else ()):
        out.message(f"{'' if number else 'found':<6}{line}")
    for name in written:
        out.message(f"wrote {folder / name}")
    for line in todo:
        out.message(f"to do: {line}", "bold")
    out.message("next:")
    for command in commands:
        out.write(f"  {command}")
    return 0


def _matches(folder: Path, pattern: str) -> bool:
    if Path(pattern).expanduser().is_absolute():
        return True
    return any(folder.glob(os.path.normpath(pattern))) if not pattern.startswith("..") else True


def command_name_elsewhere(typed: str | None = None) -> str:
    """Return what runs the command from any other folder: a program that was typed as a relative path becomes absolute.

    Args:
        typed: by default the command of this process.
    """
    program, *rest = shlex.split(typed or command_name())
    return shlex.join([str(Path(program).absolute()) if "/" in program else program, *rest])
