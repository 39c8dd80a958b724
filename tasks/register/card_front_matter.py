"""The front matter of a model card, in YAML: what the Hugging Face Hub reads of a model's README.md.

Source: Hugging Face Hub documentation, "Model cards"; its model-index is that of Papers with Code.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from dataops.rights.licenses import name_stated
from dataops.snapshot import Manifest

TAGS = ("clip", "zero-shot-image-classification", "pairmill")
_HUB = "hf-hub:"
_RETRIEVAL = re.compile(r"(image_to_text|text_to_image)_.*")
_LANGUAGE = re.compile(r"([a-z]{2,3})(?:[-_][A-Za-z0-9]+)*")


def write_front_matter(fields: Mapping[str, object]) -> str:
    """Return the fields of a card as YAML, with the two lines that delimit it."""
    return f"---\n{yaml.safe_dump(dict(fields), sort_keys=False, width=100)}---\n"


def split_front_matter(card: str) -> tuple[dict[str, Any], str]:
    """Return the fields of a card's front matter, and its text; no fields if it has none."""
    found = re.match(r"---\n(.*?\n)---\n(.*)", card, re.DOTALL)
    fields = yaml.safe_load(found[1]) if found else None
    return (fields, found[2]) if found and isinstance(fields, dict) else ({}, card)


def describe_model(
    name: str,
    manifests: Mapping[str, Manifest],
    rows: Sequence[Mapping[str, object]],
    license_: str,
    datasets: Iterable[str],
    languages: Iterable[str],
) -> dict[str, Any]:
    """Return the fields of a card.

    Args:
        manifests: of the stages before register, by stage.
        rows: of `training.evaluation.intervals.flatten_metrics`.
        license_: of the weights, as their owner states it; "" if it is not stated.
        datasets: names of the training data.
        languages: of the captions.
    """
    known = sorted({found[1] for name in languages if (found := _LANGUAGE.fullmatch(name))})
    training = manifests["train"].config if "train" in manifests else {}
    base = _find_base(training)
    # open_clip has no networks but its own.
    is_plain = not (training.get("text_init") or training.get("image_init"))
    return {
        **(name_stated(license_) if license_ else {}),
        **({"language": known} if known else {}),
        "library_name": "open_clip" if is_plain else "pairmill",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": [*TAGS, "open_clip"] if is_plain else list(TAGS),
        **({"datasets": found} if (found := list(datasets)) else {}),
        **({"base_model": base} if base else {}),
        **({"model-index": [{"name": _plain(name), "results": _list_results(rows)}]} if rows else {}),
    }


def _find_base(config: Mapping[str, object]) -> str | None:
    """Return the Hub's name of the weights that a training began with, if they are from the Hub."""
    init = str(config.get("init") or "")
    return init.removeprefix(_HUB).partition("@")[0] if init.startswith(_HUB) else None


def _list_results(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a result for each task, with its metrics."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        task, metric = _plain(str(row["task"])), _plain(str(row["metric"]))
        kind = "image-text-retrieval" if _RETRIEVAL.fullmatch(metric) else "zero-shot-image-classification"
        slug = task.replace(" ", "-")
        result = {"task": {"type": kind}, "dataset": {"name": task, "type": slug}, "metrics": []}
        value = {"type": metric, "name": metric, "value": float(row["value"]), "verified": False}
        found.setdefault(f"{task}/{kind}", result)["metrics"].append(value)
    return list(found.values())


def _plain(text: str) -> str:
    """Return a name without characters that Markdown or HTML may interpret; a viewer may show front matter as text."""
    return re.sub(r"[^\w .:/@-]+", "-", text, flags=re.ASCII).strip("- ")[:100] or "unnamed"
