"""The bill of materials of a model (ML-BOM) in CycloneDX 1.6: the model, its datasets, pretrained weights and software.

The classes of cyclonedx-python-lib have neither `modelCard` nor `data` (its issues 912 and 913), so the JSON is written
here. The library knows licences, and validates the document against the strict schema of the specification.

Source: OWASP CycloneDX 1.6 (ECMA-424); CycloneDX, "Authoritative Guide to AI/ML-BOM".
"""

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from dataops.errors import ConfigError, ContractError
from dataops.facts import EvaluateFacts, PackFacts, TrainFacts
from dataops.formatting import format_quantity
from dataops.plugins import require
from dataops.rights.licenses import list_licenses
from dataops.snapshot import Manifest
from plugins.disclosure.subject import Chain, Subject
from tasks.register.card import list_limits
from tasks.tracking.run_metadata import model_name
from training.evaluation.intervals import flatten_metrics

SPECIFICATION = "1.6"
MODEL, SOFTWARE, PYTHON = "model", "pairmill", "python"
"""References of components in the document."""
_NAMESPACE = uuid.UUID("6d0f5f4e-6d0c-5c53-9b57-3d5f0d5c1a77")
_WEIGHTS = "model.safetensors"


def write_bom(subject: Subject) -> str:
    """Return the document as JSON. The same model gives the same text.

    Raises: ConfigError if it is no model, or cyclonedx-python-lib is not installed; ContractError if the document is not
        valid.
    """
    train = subject.train
    if train is None:
        raise ConfigError(f"{subject.name} is a dataset; name a model, or a train snapshot by its key")
    require(["cyclonedx"], "disclosure", "pairmill bom")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    components = [
        *(_describe_dataset(chain) for chain in subject.chains),
        *(_describe_missing(key) for key in subject.missing),
        *_list_weights(subject),
        *_list_software(train),
    ]
    references = sorted(str(one["bom-ref"]) for one in components)
    document = {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPECIFICATION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPECIFICATION,
        "serialNumber": uuid.uuid5(_NAMESPACE, f"{subject.name} {train.content_digest}").urn,
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromisoformat(train.created_at).isoformat(),
            "tools": {"components": [_component("application", "pairmill", "")]},
            "component": _describe_model(subject, train) | {"modelCard": _make_card(subject, train)},
        },
        "components": components,
        "dependencies": [{"ref": MODEL, "dependsOn": references}, *({"ref": one} for one in references)],
    }
    text = json.dumps(document, indent=1, ensure_ascii=True) + "\n"
    if (problem := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)) is not None:
        raise ContractError(f"the ML-BOM of {subject.name} is not valid CycloneDX: {str(problem)[:500]}")
    return text


def _component(
    kind: str, name: str, reference: str, version: str = "", sha256: str = "", license_: str = "", **fields: Any
) -> dict[str, Any]:
    """Return a component of a type of the specification, such as `data`, without the fields that are empty.

    Args:
        license_: SPDX id, expression or name of its licence.
    """
    is_digest = len(sha256) == 64 and set(sha256) <= set("0123456789abcdef")
    from cyclonedx import spdx

    if spdx.is_expression(license_) and not spdx.fixup_id(license_):
        licenses = [{"expression": license_}]
    else:
        licenses = [{"license": {"id": known} if (known := spdx.fixup_id(license_)) else {"name": license_}}]
    found = {
        "type": kind,
        "bom-ref": reference,
        "name": name,
        "version": version,
        "hashes": [{"alg": "SHA-256", "content": sha256}] if is_digest else [],
        "licenses": licenses if license_ else [],
        **fields,
    }
    return {key: value for key, value in found.items() if value}


def _properties(values: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"name": f"pairmill:{name}", "value": value} for name, value in values if value]


def _describe_model(subject: Subject, train: Manifest) -> dict[str, Any]:
    name, _, version = subject.name.removeprefix("models:/").rpartition("/")
    is_registered = subject.name.startswith("models:/")
    # A reference is of one component.
    ancestors = [{key: value for key, value in one.items() if key != "bom-ref"} for one in _list_weights(subject)]
    facts = {
        "content_digest": f"sha256:{train.content_digest}",
        "snapshot": f"train/{train.key}",
        "seed": str(train.seed),
        "precision": TrainFacts.of(train).precision or "",
        "pairs": str(subject.pairs),
    }
    return _component(
        "machine-learning-model",
        name if is_registered else subject.name,
        MODEL,
        version if is_registered else train.content_digest[:16],
        next((part.sha256 for part in train.parts if part.name == _WEIGHTS), ""),
        subject.license,
        description=f"CLIP {model_name(train)}, trained on {format_quantity(subject.pairs, 'pair')} of image and "
        "caption.",
        pedigree={"ancestors": ancestors} if ancestors else None,
        properties=_properties(facts.items()),
    )


def _describe_dataset(chain: Chain) -> dict[str, Any]:
    pack, facts, name = chain.pack, PackFacts.of(chain.pack), f"pack/{chain.pack.key}"
    licenses = list_licenses(facts.licenses, chain.pairs)
    declared = [f"{one.license or 'none'}: {format_quantity(one.pairs, 'pair')}" for one in licenses]
    snapshots = {stage: f"{one.key} sha256:{one.content_digest}" for stage, one in sorted(chain.ancestors.items())}
    languages = [
        ("language", f"{language or 'not detected'}: {format_quantity(number, 'pair')}")
        for language, number in facts.languages.items()
    ]
    contents = {"contents": {"properties": _properties(languages)}} if languages else {}
    return _component(
        "data",
        name,
        name,
        pack.content_digest[:16],
        pack.content_digest,
        description=f"{format_quantity(chain.pairs, 'pair')} of image and caption. The SHA-256 is the content digest: "
        "that of the sorted sha256 of all parts.",
        properties=_properties(
            [
                *(("declared_license", value) for value in declared),
                *((f"snapshot.{stage}", value) for stage, value in snapshots.items()),
            ]
        ),
        data=[{"type": "dataset", "name": name, **contents}],
    )


def _describe_missing(key: str) -> dict[str, Any]:
    name, text = f"pack/{key}", "A dataset of the training that is no longer in a known store."
    return _component("data", name, name, description=text, data=[{"type": "dataset", "name": name}])


def _list_weights(subject: Subject) -> Iterator[dict[str, Any]]:
    for number, one in enumerate(subject.weights):
        tower = "Both towers" if one.tower == "both" else f"The {one.tower} tower"
        file = f" (file {one.file})" if one.file else ""
        text = f"{tower} started from these pretrained weights{file}."
        reference = f"weights-{number}"
        yield _component(
            "machine-learning-model", one.name, reference, one.version, one.sha256, one.license, description=text
        )


def _list_software(train: Manifest) -> Iterator[dict[str, Any]]:
    """Yield the software of the training, as far as the manifest has it."""
    commit, change = str(train.code.get("commit") or ""), ", with changes that were not committed."
    yield _component(
        "application",
        "pairmill",
        SOFTWARE,
        commit[:16],
        description="The pipeline that made the datasets and trained the model"
        + (change if train.code.get("dirty") else "."),
        pedigree={"commits": [{"uid": commit}]} if commit else None,
    )
    if python := train.code.get("python"):
        yield _component("platform", "python", PYTHON, str(python))


def _make_card(subject: Subject, train: Manifest) -> dict[str, Any]:
    """Return the model card."""
    manifests = subject.manifests
    metrics = EvaluateFacts.of(manifests["evaluate"]).metrics if "evaluate" in manifests else None
    rows = flatten_metrics(metrics or {})
    datasets = [*(pack.key for pack in subject.packs), *subject.missing]
    limits = list_limits(manifests, rows, only_own=len(datasets) > 1)
    card: dict[str, Any] = {
        "modelParameters": {
            "approach": {"type": "self-supervised"},
            "task": "zero-shot-image-classification",
            "architectureFamily": "CLIP",
            "modelArchitecture": model_name(train),
            "datasets": [{"ref": f"pack/{key}"} for key in datasets],
            "inputs": [{"format": "image"}, {"format": "text"}],
            "outputs": [{"format": "feature vector of an image or a text"}],
        },
        "considerations": {
            "useCases": ["Similarity of images and texts: classification without training, search and filters."],
            "technicalLimitations": [sentence.replace("`", "") for sentence in limits],
        },
    }
    if measured := [_describe_metric(row) for row in rows if row["value"] is not None]:
        card["quantitativeAnalysis"] = {"performanceMetrics": measured}
    return card


def _describe_metric(row: Mapping[str, Any]) -> dict[str, Any]:
    metric = {"type": str(row["metric"]), "value": f"{row['value']:.6g}", "slice": str(row["task"])}
    if row["low"] is None or row["high"] is None:
        return metric
    return metric | {"confidenceInterval": {"lowerBound": f"{row['low']:.6g}", "upperBound": f"{row['high']:.6g}"}}
