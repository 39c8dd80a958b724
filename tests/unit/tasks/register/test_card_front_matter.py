"""The front matter of a model card is read by the Hub's own library: licence, data, base weights and results."""

import pytest
from huggingface_hub import ModelCard

from tasks.register.card_front_matter import describe_model, split_front_matter, write_front_matter
from tests.manifests import build_manifest

ROWS = [
    {"task": "digits", "metric": "top1", "value": 0.25},
    {"task": "digits", "metric": "top5", "value": 0.5},
    {"task": "flickr <b>", "metric": "image_to_text_R@1", "value": 0.125},
]


def card(init: str | None, license_: str = "Apache-2.0") -> ModelCard:
    train = build_manifest("train", config={"init": init})
    fields = describe_model("m", {"train": train}, ROWS, license_, ["pack/00"], {"en": 3, "zh-cn": 1, "": 2})
    return ModelCard(write_front_matter(fields) + "# m\n")


def test_hub_reads_results_data_and_licence() -> None:
    data = card(None).data
    assert (data.license, data.datasets, data.language) == ("apache-2.0", ["pack/00"], ["en", "zh"])
    assert data.base_model is None
    results = {(one.dataset_name, one.task_type, one.metric_type): one.metric_value for one in data.eval_results}
    assert results == {
        ("digits", "zero-shot-image-classification", "top1"): 0.25,
        ("digits", "zero-shot-image-classification", "top5"): 0.5,
        ("flickr -b", "image-text-retrieval", "image_to_text_R@1"): 0.125,
    }


@pytest.mark.parametrize(
    ("init", "expected"), [("hf-hub:laion/CLIP-ViT-B-32@main", "laion/CLIP-ViT-B-32"), ("ViT-B-32.pt", None)]
)
def test_base_model_is_that_of_the_hub(init: str, expected: str | None) -> None:
    assert card(init).data.base_model == expected


@pytest.mark.parametrize(
    ("stated", "license_", "name"),
    [("", None, None), ("Our <b>terms</b>, v1", "other", "our-b-terms-b-v1"), ("MIT", "mit", None)],
)
def test_licence_of_the_weights(stated: str, license_: str | None, name: str | None) -> None:
    data = card(None, stated).data
    assert (data.license, data.get("license_name")) == (license_, name)


def test_front_matter_is_split_from_the_text() -> None:
    assert split_front_matter("---\na: 1\n---\n# x\n---\n") == ({"a": 1}, "# x\n---\n")
    assert split_front_matter("# x\n---\n---\n") == ({}, "# x\n---\n---\n")
