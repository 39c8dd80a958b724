"""The text of a new project's config and suite, with a comment for each key that most people set."""

from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from dataops.toml_text import format_value
from tasks.extract.sources.base import Template

SCHEMA_FILE, CONFIG_FILE, SUITE_FILE = "config.schema.json", "config.toml", "suite.toml"
DIGITS = "evaluation/digits"
"""Folder of the evaluation set that a new project gets."""
CONTACT = "https://example.org/about-our-crawler"
"""Contact of a config until its owner sets one."""
_CONFIG = """#:schema ./{schema}
# {summary}
#
#   pairmill plan config.toml                 what a run makes, and what it costs
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
