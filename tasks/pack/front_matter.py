"""The front matter of a dataset card, in YAML: what the Hugging Face Hub and `datasets` read of DATASET.md.

Source: Hugging Face Hub documentation, "Dataset cards" and "Data files configuration".
"""

import re
from itertools import pairwise
from typing import Any

import pyarrow as pa
import yaml

from dataops import plugins
from dataops.rights.licenses import name_declared, name_stated
from tasks.pack.card_text import DatasetFacts

TAGS = ("image-text-pairs", "webdataset", "clip", "pairmill")
TASKS = ("zero-shot-image-classification", "image-to-text", "text-to-image")
SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
_TYPES = {pa.string(): "string", pa.int32(): "int32", pa.int64(): "int64", pa.uint32(): "uint32"}
_TYPES[pa.float32()] = "float32"
_LANGUAGE = re.compile(r"([a-z]{2,3})(?:[-_][A-Za-z0-9]+)*")


def write_front_matter(dataset: DatasetFacts) -> str:
    """Return the front matter with the two lines that delimit it.

    It has no text from the web: licences and languages enter by their names only.
    """
    return f"---\n{yaml.safe_dump(describe_card(dataset), sort_keys=False, width=100)}---\n"


def describe_card(dataset: DatasetFacts) -> dict[str, Any]:
    """Return the fields of the front matter."""
    languages = (_LANGUAGE.fullmatch(name) for name in dataset.facts.languages)
    known = sorted({found[1] for found in languages if found})
    samples = [
        {"name": dataset.image_extension, "dtype": "image"},
        {"name": "txt", "dtype": "string"},
        {"name": "json", "struct": [_describe_column(field.name, field.type) for field in dataset.columns]},
        {"name": "__key__", "dtype": "string"},
        {"name": "__url__", "dtype": "string"},
    ]
    return {
        "pretty_name": f"Dataset {dataset.key}",
        **(name_stated(dataset.license) if dataset.license else name_declared(dataset.facts.licenses)),
        **({"language": known} if known else {}),
        "size_categories": [describe_size(dataset.samples)],
        "task_categories": list(TASKS),
        "tags": [*TAGS, *plugins.load("documents")],
        # `datasets` infers features from five samples, and fails on a column that is null in these; so they are given
        "dataset_info": {"features": samples},
        # one config: all configs of a dataset have one format, and the tables are Parquet
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "*.tar"}]}],
    }


def describe_size(samples: int) -> str:
    """Return the Hub's size category of a number of samples."""
    if samples < 1000:
        return "n<1K"
    for exponent, (low, high) in enumerate(pairwise(SIZES), 4):
        if samples < 10**exponent:
            return f"{low}<n<{high}"
    return "n>1T"


def _describe_column(name: str, type_: pa.DataType) -> dict[str, Any]:
    return {"name": name, **_describe_type(type_)}


def _describe_type(type_: pa.DataType) -> dict[str, Any]:
    if pa.types.is_list(type_):
        inner = _describe_type(type_.value_type)
        return {"list": inner["dtype"] if inner.keys() == {"dtype"} else inner}
    return {"dtype": _TYPES[type_]}
