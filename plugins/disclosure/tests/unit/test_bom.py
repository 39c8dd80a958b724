"""An ML-BOM is valid CycloneDX and names each dataset, weight and program of a model by digest."""

import json
from dataclasses import replace

import pytest

from dataops.snapshot import Input, Part
from dataops.store import FolderStore
from plugins.disclosure.bom import write_bom
from plugins.disclosure.subject import describe_training
from plugins.disclosure.tests.unit.made_model import WEIGHTS, make_model, pair
from tests.hostile_text import HOSTILE
from tests.manifests import build_manifest

schema = pytest.importorskip("cyclonedx.schema")
validation = pytest.importorskip("cyclonedx.validation.json")


@pytest.fixture
def subject(tmp_path):
    store = FolderStore(tmp_path)
    train = make_model(store, [pair(n, "a.com", 9) for n in range(3)])["train"]
    inputs = [
        *train.inputs,
        Input(stage="pack", key="f" * 16, digest="3" * 64),
    ]
    code = {"commit": "c" * 40, "dirty": True, "python": "3.11.7"}
    parts = [Part(name="model.safetensors", rows=0, bytes=1, sha256="4" * 64)]
    train = train.model_copy(update={"inputs": inputs, "code": code, "parts": parts})
    result = {"value": 0.5, "low": 0.25, "high": 0.75, "chance": 0.1}
    metrics = {"digits": {"n": 9, "metrics": {"top1": result, "top5": result | {"low": None, "high": None}}}}
    made = describe_training(train, store, "models:/my/clip/3", "cc-by-4.0")
    evaluate = build_manifest("evaluate", facts={"metrics": metrics})
    return replace(made, manifests={**made.manifests, "evaluate": evaluate})


def parsed(subject):
    """Return a document that the library's own strict validator accepts."""
    text = write_bom(subject)
    assert validation.JsonStrictValidator(schema.SchemaVersion.V1_6).validate_str(text) is None
    return json.loads(text)


def digest(component):
    (found,) = component["hashes"]
    assert found["alg"] == "SHA-256"
    return found["content"]


def test_document_names_all_materials_by_digest(subject):
    document = parsed(subject)
    model, parts = document["metadata"]["component"], {one["bom-ref"]: one for one in document["components"]}
    pack = subject.packs[0]
    assert (model["type"], model["name"], model["version"]) == ("machine-learning-model", "my/clip", "3")
    assert digest(model) == "4" * 64, "of the weights"
    assert (
        model["licenses"] == [{"license": {"id": "CC-BY-4.0"}}]
        or model["licenses"][0]["license"]["name"] == "cc-by-4.0"
    )
    data = parts[f"pack/{pack.key}"]
    assert (data["type"], digest(data)) == ("data", pack.content_digest)
    assert data["data"][0]["contents"]["properties"] == [{"name": "pairmill:language", "value": "en: 3 pairs"}]
    values = {one["name"]: one["value"] for one in data["properties"]}
    assert values["pairmill:declared_license"] == "none: 3 pairs"
    assert values["pairmill:snapshot.curate"].endswith(subject.manifests["curate"].content_digest)
    weights = parts["weights-0"]
    assert (weights["name"], weights["version"], digest(weights)) == ("net", "1", "ab" * 32)
    assert [one["name"] for one in model["pedigree"]["ancestors"]] == ["net"]
    assert "no longer in a known store" in parts[f"pack/{'f' * 16}"]["description"]
    assert parts["pairmill"]["pedigree"]["commits"] == [{"uid": "c" * 40}]
    assert "changes that were not committed" in parts["pairmill"]["description"]
    assert parts["python"]["version"] == "3.11.7"
    depends = next(one for one in document["dependencies"] if one["ref"] == "model")["dependsOn"]
    assert sorted(depends) == sorted(parts)


def test_model_card_has_datasets_results_and_limits(subject):
    card = parsed(subject)["metadata"]["component"]["modelCard"]
    keys = [pack.key for pack in subject.packs] + list(subject.missing)
    assert card["modelParameters"]["datasets"] == [{"ref": f"pack/{key}"} for key in keys]
    assert card["modelParameters"]["modelArchitecture"] == "ViT-B-32 + net"
    assert card["quantitativeAnalysis"]["performanceMetrics"] == [
        {
            "type": "top1",
            "value": "0.5",
            "slice": "digits",
            "confidenceInterval": {"lowerBound": "0.25", "upperBound": "0.75"},
        },
        {"type": "top5", "value": "0.5", "slice": "digits"},
    ]
    assert any("identification of people" in line for line in card["considerations"]["technicalLimitations"])


def test_document_is_the_same_each_time_and_valid_with_hostile_names(subject):
    assert write_bom(subject) == write_bom(subject)
    weights = [{**WEIGHTS[0], "name": HOSTILE, "license": HOSTILE, "sha256": "no digest", "version": ""}] * 2
    train = subject.train.model_copy(
        update={"facts": {"weights": weights}, "config": {"model": HOSTILE}, "code": {}, "parts": []}
    )
    document = parsed(replace(subject, train=train, name=f"models:/{HOSTILE}/1", license=HOSTILE))
    found = [one for one in document["components"] if one["name"] == HOSTILE]
    assert len(found) == 2
    assert not any("hashes" in one for one in found)
