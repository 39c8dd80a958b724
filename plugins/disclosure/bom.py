"""The bill of materials of a model (ML-BOM) in CycloneDX 1.6: the model, its datasets, pretrained weights and software.

cyclonedx-python-lib makes the document. Its classes have neither `modelCard` nor `data` (its issues 912 and 913), so these
two are added to its JSON. The result is validated against the strict schema of the specification, which the library has.

Source: OWASP CycloneDX 1.6 (ECMA-424); CycloneDX, "Authoritative Guide to AI/ML-BOM".
"""

import importlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from dataops.errors import ConfigError, ContractError
from dataops.facts import EvaluateFacts, PackFacts, TrainFacts
from dataops.formatting import format_quantity
from dataops.rights.licenses import list_licenses
from plugins.disclosure.subject import Chain, Subject
from tasks.register.model_card import list_limits
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
    if subject.train is None:
        raise ConfigError(f"{subject.name} is a dataset; name a model, or a train snapshot by its key")
    schema = _import("schema")
    version = schema.SchemaVersion.from_version(SPECIFICATION)
    made = _import("output").make_outputter(_build(subject), schema.OutputFormat.JSON, version).output_as_string()
    document = json.loads(made)
    _add_model_card(document, subject)
    _add_data(document, subject)
    text = json.dumps(document, indent=1, ensure_ascii=True) + "\n"
    if (problem := _import("validation.json").JsonStrictValidator(version).validate_str(text)) is not None:
        raise ContractError(f"the ML-BOM of {subject.name} is not valid CycloneDX: {str(problem)[:500]}")
    return text


def _import(module: str) -> Any:
    """Return a module of cyclonedx-python-lib, whose decorated classes have no static types.

    Raises: ConfigError if it is not installed.
    """
    try:
        return importlib.import_module(f"cyclonedx.{module}")
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed: pip install 'pairmill[disclosure]'") from error


def _component(kind: str, **fields: Any) -> Any:
    """Return a component of a type of the specification, such as `data`."""
    component = _import("model.component")
    return component.Component(type=component.ComponentType(kind), **fields)


def _pedigree(**fields: Any) -> Any:
    return _import("model.component").Pedigree(**fields)


def _property(name: str, value: str) -> Any:
    return _import("model").Property(name=f"pairmill:{name}", value=value)


def _license(text: str) -> list[Any]:
    """Return a licence by its SPDX id, expression or name."""
    return [_import("contrib.license.factories").LicenseFactory().make_from_string(text)] if text else []


def _build(subject: Subject) -> Any:
    """Return what the classes of the library can hold."""
    train = subject.train
    assert train is not None
    model, software = _describe_model(subject), _list_software(subject)
    materials = [
        *(_describe_dataset(chain) for chain in subject.chains),
        *(_describe_missing(key) for key in subject.missing),
        *_list_weights(subject),
        *_list_teachers(subject),
    ]
    model_bom = _import("model.bom")
    bom = model_bom.Bom(
        serial_number=uuid.uuid5(_NAMESPACE, f"{subject.name} {train.content_digest}"),
        metadata=model_bom.BomMetaData(
            timestamp=datetime.fromisoformat(train.created_at),
            component=model,
            tools=_import("model.tool").ToolRepository(components=[_component("application", name="pairmill")]),
        ),
        components=[*materials, *software],
    )
    bom.register_dependency(model, [*materials, *software])
    return bom


def _describe_model(subject: Subject) -> Any:
    train = subject.train
    assert train is not None
    name, _, version = subject.name.removeprefix("models:/").rpartition("/")
    is_registered = subject.name.startswith("models:/")
    ancestors = list(_list_weights(subject, is_ancestor=True))
    facts = {
        "content_digest": f"sha256:{train.content_digest}",
        "snapshot": f"train/{train.key}",
        "seed": str(train.seed),
        "precision": TrainFacts.of(train).precision,
        "pairs": str(subject.pairs),
    }
    return _component(
        "machine-learning-model",
        name=name if is_registered else subject.name,
        version=version if is_registered else train.content_digest[:16],
        bom_ref=MODEL,
        description=f"CLIP {model_name(train.config)}, trained on {format_quantity(subject.pairs, 'pair')} of image and "
        "caption.",
        hashes=_hash(next((part.sha256 for part in train.parts if part.name == _WEIGHTS), "")),
        licenses=_license(subject.license),
        pedigree=_pedigree(ancestors=ancestors) if ancestors else None,
        properties=[_property(key, value) for key, value in facts.items() if value],
    )


def _describe_dataset(chain: Chain) -> Any:
    pack = chain.pack
    licenses = list_licenses(PackFacts.of(pack).licenses, chain.pairs)
    declared = [f"{one.license or 'none'}: {format_quantity(one.pairs, 'pair')}" for one in licenses]
    snapshots = {stage: f"{one.key} sha256:{one.content_digest}" for stage, one in chain.ancestors.items()}
    return _component(
        "data",
        name=f"pack/{pack.key}",
        version=pack.content_digest[:16],
        bom_ref=f"pack/{pack.key}",
        description=f"{format_quantity(chain.pairs, 'pair')} of image and caption. The SHA-256 is the content digest: "
        "that of the sorted sha256 of all parts.",
        hashes=_hash(pack.content_digest),
        properties=[
            *(_property("declared_license", value) for value in declared),
            *(_property(f"snapshot.{stage}", value) for stage, value in sorted(snapshots.items())),
        ],
    )


def _describe_missing(key: str) -> Any:
    text = "A dataset of the training that is no longer in a known store."
    return _component("data", name=f"pack/{key}", bom_ref=f"pack/{key}", description=text)


def _list_weights(subject: Subject, *, is_ancestor: bool = False) -> Iterator[Any]:
    """Yield the pretrained weights; as ancestors without a reference, since a reference is of one component."""
    for number, one in enumerate(subject.weights):
        tower = "Both towers" if one.tower == "both" else f"The {one.tower} tower"
        file = f" (file {one.file})" if one.file else ""
        yield _component(
            "machine-learning-model",
            name=one.name,
            version=one.version or None,
            bom_ref=None if is_ancestor else f"weights-{number}",
            description=f"{tower} started from these pretrained weights{file}.",
            hashes=_hash(one.sha256),
            licenses=_license(one.license),
        )


def _list_teachers(subject: Subject) -> Iterator[Any]:
    models = TrainFacts.of(subject.train).other_models if subject.train is not None else {}
    for number, source in enumerate(subject.train.inputs if subject.train is not None else []):
        if source.stage in models:
            yield _component(
                "machine-learning-model",
                name=source.key,
                bom_ref=f"teacher-{number}",
                description=f"Another model of the training ({source.stage}).",
                hashes=_hash(source.digest),
            )


def _list_software(subject: Subject) -> list[Any]:
    """Return the software of the training, as far as the manifest has it."""
    code = subject.train.code if subject.train is not None else {}
    commit = str(code.get("commit") or "")
    found = [
        _component(
            "application",
            name="pairmill",
            version=commit[:16] or None,
            bom_ref=SOFTWARE,
            description="The pipeline that made the datasets and trained the model"
            + (", with changes that were not committed." if code.get("dirty") else "."),
            pedigree=_pedigree(commits=[_import("model.component").Commit(uid=commit)]) if commit else None,
        )
    ]
    if python := code.get("python"):
        found.append(_component("platform", name="python", version=str(python), bom_ref=PYTHON))
    return found


def _hash(sha256: str) -> list[Any]:
    is_digest = len(sha256) == 64 and set(sha256) <= set("0123456789abcdef")
    model = _import("model")
    return [model.HashType(alg=model.HashAlgorithm.SHA_256, content=sha256)] if is_digest else []


def _add_model_card(document: dict[str, Any], subject: Subject) -> None:
    """Add the model card, for which the library has no class."""
    train, manifests = subject.train, subject.manifests
    assert train is not None
    metrics = EvaluateFacts.of(manifests["evaluate"]).metrics if "evaluate" in manifests else None
    rows = flatten_metrics(metrics or {})
    datasets = [*(pack.key for pack in subject.packs), *subject.missing]
    limits = list_limits(manifests, rows, only_own=len(datasets) > 1)
    card: dict[str, Any] = {
        "modelParameters": {
            "approach": {"type": "self-supervised"},
            "task": "zero-shot-image-classification",
            "architectureFamily": "CLIP",
            "modelArchitecture": model_name(train.config),
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
    document["metadata"]["component"]["modelCard"] = card


def _describe_metric(row: Mapping[str, Any]) -> dict[str, Any]:
    metric = {"type": str(row["metric"]), "value": f"{row['value']:.6g}", "slice": str(row["task"])}
    if row["low"] is None or row["high"] is None:
        return metric
    return metric | {"confidenceInterval": {"lowerBound": f"{row['low']:.6g}", "upperBound": f"{row['high']:.6g}"}}


def _add_data(document: dict[str, Any], subject: Subject) -> None:
    """Add `data` to the components that are datasets, for which the library has no class."""
    languages = {f"pack/{pack.key}": _count(PackFacts.of(pack).languages) for pack in subject.packs}
    for component in document.get("components", []):
        if component["type"] == "data":
            values = languages.get(component["bom-ref"], [])
            listed = [{"name": "pairmill:language", "value": value} for value in values]
            contents = {"contents": {"properties": listed}} if listed else {}
            component["data"] = [{"type": "dataset", "name": component["name"], **contents}]


def _count(counts: Mapping[str, int]) -> Sequence[str]:
    return [f"{name or 'not detected'}: {format_quantity(number, 'pair')}" for name, number in counts.items()]
